--- @include "numbers"
--- @include "events"

local MAX_PROMOTED = 200

-- Promotes the delayed jobs whose time has come, at most 200 a call; without a marker. Returns how
-- many were due; ids without a job are appended to `dropped`.
local function promote_due(Q, now, dropped)
  local due = redis.call('ZRANGEBYSCORE', Q .. ':delayed', '-inf', (now + 1) * 4096 - 1,
    'LIMIT', 0, MAX_PROMOTED)
  if #due == 0 then return 0 end
--- @local "promote"
  redis.call('ZREM', Q .. ':delayed', unpack(due))
  for _, id in ipairs(due) do
    if not promote_one(Q, id) then dropped[#dropped + 1] = id end
  end
  return #due
end
