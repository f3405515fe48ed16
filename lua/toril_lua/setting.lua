-- Store a live setting of the queue together with its projection, unless it changed meanwhile.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {field = field of meta, expected = text, value = text,
--                         write = {field = text, ...}, delete = {field, ...},
--                         event = fields of an event, {} for none}
--            '' stands for: no such field. The fields to write and to delete are the projection,
--            under toril.<setting>.<field>.
-- Returns:   1 stored, 0 somebody else stored another value since it was read
-- Events:    toril:disagreement {setting, level, value, source, instead, of}: what two processes
--            declare differs

--- @include "events"

local meta = KEYS[1] .. ':meta'
local request = cmsgpack.unpack(ARGV[1])

if (redis.call('HGET', meta, request.field) or '') ~= request.expected then return 0 end

-- A full server takes an HSET after this first write, which it never refuses.
redis.call('HDEL', meta, request.field, unpack(request.delete))
local fields = {}
if request.value ~= '' then fields = {request.field, request.value} end
for field, value in pairs(request.write) do
  fields[#fields + 1] = field
  fields[#fields + 1] = value
end
if #fields > 0 then redis.call('HSET', meta, unpack(fields)) end
local told = {}
for field, value in pairs(request.event) do
  told[#told + 1] = field
  told[#told + 1] = value
end
if #told > 0 then emit_capped(KEYS[1], 'toril:disagreement', unpack(told)) end
return 1
