-- One step through the key space of the server that holds a queue (or a prefix with a hash tag).
--
-- Keys:      [1] the queue, or the prefix
-- Arguments: [1] msgpack {cursor = text, match = pattern, type = type of key or absent}
-- Returns:   {cursor, {key, ...}}; cursor 0 at the end; about 1000 keys are looked at
-- Events:    none; nothing is written
--
-- A script, because a cluster runs it where the queue's slot is; a plain SCAN goes to any server.

local request = cmsgpack.unpack(ARGV[1])
local command = {'SCAN', request.cursor, 'MATCH', request.match, 'COUNT', 1000}
if request.type then
  command[7], command[8] = 'TYPE', request.type
end
return redis.call(unpack(command))
