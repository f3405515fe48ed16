-- Closes a deduplication window, so that the next job with its id is added.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {id, owner = only if it belongs to that job}
-- Returns:   1 if it was open, else 0
-- Events:    none

local request = cmsgpack.unpack(ARGV[1])
local key = KEYS[1] .. ':de:' .. request.id

if request.owner and redis.call('GET', key) ~= request.owner then return 0 end
return redis.call('DEL', key)
