-- Sets the limits of a queue that hold for all of its workers.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {set = {field, value, ...}, unset = {field, ...} of meta: concurrency,
--            max, duration; hold = ms for which no worker takes a job, 0: no more}
-- Returns:   1 if hold = 0 ended a window, else 0
-- Events:    none

--- @include "marker"
--- @include "events"
--- @include "hold"

local q = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])

-- Allowed on a full server, and with it the rest.
trim_events(q)
if #request.unset > 0 then redis.call('HDEL', q .. ':meta', unpack(request.unset)) end
if #request.set > 0 then redis.call('HSET', q .. ':meta', unpack(request.set)) end
local ended = 0
if request.hold == 0 then
  ended = redis.call('DEL', q .. ':limiter')
elseif request.hold then
  hold_back(q, request.hold)
end
wake(q)
return ended
