-- A sign of life of a worker, or its end. Forgets workers that gave none for a minute.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {who = text, now = ms, keep = ms, told = text or absent: it ends}
-- Returns:   nothing
-- Events:    none

--- @include "numbers"

local request = cmsgpack.unpack(ARGV[1])
local index = KEYS[1] .. ':toril:workers'
local key = index .. ':' .. request.who

-- First, as a full server allows it, and with it the other writes.
redis.call('ZREMRANGEBYSCORE', index, '-inf', int(request.now - request.keep))
if request.told then
  redis.call('SET', key, request.told, 'PX', request.keep)
  redis.call('ZADD', index, request.now, request.who)
else
  redis.call('ZREM', index, request.who)
  redis.call('DEL', key)
end
