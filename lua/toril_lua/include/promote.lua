--- @include "numbers"
--- @include "events"
--- @include "enqueue"
-- Delayed jobs whose time has come.

local MAX_PROMOTED = 200

-- Makes a delayed job run that has been taken out of the delayed set; without a marker. An id
-- without a hash is dropped: returns whether there was one.
local function promote_one(Q, id)
  local key = Q .. ':' .. id
  local stored = redis.pcall('HMGET', key, 'priority', 'name', 'data')
  if stored.err or not (stored[1] or stored[2] or stored[3]) then return false end
  push(Q, id, whole(stored[1]), false)
  emit(Q, 'waiting', 'jobId', id, 'prev', 'delayed')
  redis.call('HSET', key, 'delay', 0)
  return true
end

-- Promotes what is due, at most 200 a call; without a marker. Returns how many were due, the ids
-- dropped are appended to `dropped`.
local function promote_due(Q, now, dropped)
  local due = redis.call('ZRANGEBYSCORE', Q .. ':delayed', '-inf', int((now + 1) * 4096 - 1),
    'LIMIT', 0, MAX_PROMOTED)
  if #due == 0 then return 0 end
  redis.call('ZREM', Q .. ':delayed', unpack(due))
  for _, id in ipairs(due) do
    if not promote_one(Q, id) then dropped[#dropped + 1] = id end
  end
  return #due
end
