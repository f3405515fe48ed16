--- @include "numbers"
--- @include "events"

local MAX_PROMOTED = 200

-- When the earliest delayed job is due, in ms; -1 if there is none.
local function next_due(Q)
  local first = redis.call('ZRANGE', Q .. ':delayed', 0, 0, 'WITHSCORES')
  return first[2] and math.floor(tonumber(first[2]) / 4096) or -1
end

-- Promotes the delayed jobs whose time has come, at most 200 a call; without a marker. Returns how
-- many were due, and if none were, when the earliest is; ids without a job are appended to
-- `dropped`.
local function promote_due(Q, now, dropped)
  local earliest = next_due(Q)
  if earliest == -1 or earliest > now then return 0, earliest end
  local due = redis.call('ZRANGEBYSCORE', Q .. ':delayed', '-inf', (now + 1) * 4096 - 1,
    'LIMIT', 0, MAX_PROMOTED)
--- @local "promote"
  redis.call('ZREM', Q .. ':delayed', unpack(due))
  for _, id in ipairs(due) do
    if not promote_one(Q, id) then dropped[#dropped + 1] = id end
  end
  return #due
end
