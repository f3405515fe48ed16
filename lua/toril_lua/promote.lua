-- Let delayed jobs run now: one, or the earliest in slices.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {id = text or absent, limit = 1..200 (without an id)}
-- Returns:   {code, number promoted, number of ids looked at, effects}
--            code -1: no such job, -3: it is not delayed; both only with an id. Ids without a job
--            are taken out.
-- Events:    waiting {jobId, prev = delayed}; a slice trims the stream
--
-- Jobs go where their priority says and lose their delay, also in slices (BullMQ's bulk promotion
-- puts every job into the plain list and leaves `delay` as it was).

--- @include "effects"
--- @include "promote"

local q = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])

local ids, code = {request.id}, 0
if not request.id then
  ids = redis.call('ZRANGE', q .. ':delayed', 0, request.limit - 1)
  trim_events(q)
elseif not redis.call('ZSCORE', q .. ':delayed', request.id) then
  ids, code = {}, redis.call('EXISTS', q .. ':' .. request.id) == 1 and -3 or -1
end

local promoted = 0
for _, id in ipairs(ids) do
  redis.call('ZREM', q .. ':delayed', id)
  if promote_one(q, id) then promoted = promoted + 1 end
end
if request.id and code == 0 and promoted == 0 then code = -1 end
if promoted > 0 then wake(q) end
return {code, promoted, #ids, effects()}
