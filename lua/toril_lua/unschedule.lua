-- Removes a schedule, or pauses it: then its record stays. The run that is still to come goes.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {schedule = its name, now, pause = boolean, want_removed}
-- Returns:   {1, or 0 if there is no such schedule, effects}
-- Events:    removed {jobId, prev}
-- Seam:      removed

--- @include "schedules"
--- @include "discard"
--- @include "effects"

local Q = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])
local schedules, record = Q .. ':repeat', Q .. ':repeat:' .. request.schedule
want_removed = request.want_removed
--- @when removed
seam.now = request.now
--- @end

-- Allowed on a full server.
trim_events(Q)

local due = tonumber(redis.call('ZSCORE', schedules, request.schedule) or nil)
if not due then return {0, effects()} end
local id = run_id(request.schedule, due)
if redis.call('ZREM', Q .. ':delayed', id) == 1 then
  discard(Q, id, 'delayed', links_of(Q, id), 'schedule')
  emit(Q, 'removed', 'jobId', id, 'prev', 'delayed')
end
if request.pause then
  redis.call('HSET', record, 'toril.paused', int(request.now))
else
  redis.call('ZREM', schedules, request.schedule)
  redis.call('DEL', record)
end
return {1, effects()}
