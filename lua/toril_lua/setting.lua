-- Store a live setting of the queue together with its projection, unless it changed meanwhile.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {field = field of meta, expected = text, value = text,
--                         write = {field = text, ...}, delete = {field, ...},
--                         event = fields of an event, {} for none,
--                         entry = fields of an entry of the history, {} if nothing changed}
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

local function flat(map)
  local list = {}
  for field, value in pairs(map) do
    list[#list + 1] = field
    list[#list + 1] = value
  end
  return unpack(list)
end

if next(request.event) then emit_capped(KEYS[1], 'toril:disagreement', flat(request.event)) end
if next(request.entry) then
  redis.call('XADD', KEYS[1] .. ':toril:said', 'MAXLEN', '~', 1000, '*', flat(request.entry))
end
return 1
