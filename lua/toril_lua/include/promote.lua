--- @include "numbers"
--- @include "events"
--- @include "enqueue"
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
