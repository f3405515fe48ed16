-- One step through the key space of the server that holds a queue.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {cursor = text, match = pattern}
-- Returns:   {cursor, {key, ...}}; cursor 0 at the end; about 1000 keys are looked at
-- Events:    none; nothing is written
--
-- A script, because a cluster runs it where the queue's slot is; a plain SCAN goes to any server.

local request = cmsgpack.unpack(ARGV[1])
return redis.call('SCAN', request.cursor, 'MATCH', request.match, 'COUNT', 1000)
