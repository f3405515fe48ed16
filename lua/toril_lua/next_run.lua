-- Adds the run of a schedule that follows the one which a worker has picked up.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {schedule = its name, job = id of the run picked up, now,
--                         every = ms or due = ms,
--                         run = {opts, repetition, pattern, priority, lifo, deid}}
-- Returns:   {ms of the next run, {id, name, data, opts, timestamp, delay, priority, deid},
--            effects}; {0, {}, effects} if none is to follow this one
-- Events:    added, waiting or delayed; duplicated if there is such a job already
-- Seam:      saved
--
-- A run follows only the one that the schedule names as its current, so that a run which is retried
-- or was stalled has one successor. Name and data are those of the record.

--- @include "schedules"
--- @include "effects"
--- @include "saved"

local Q = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])
local schedule, now, every, run = request.schedule, request.now, request.every, request.run
local schedules, record = Q .. ':repeat', Q .. ':repeat:' .. request.schedule
--- @when saved
seam.now = now
--- @end

-- Allowed on a full server, and with it what follows: a series must not end there.
trim_events(Q)

local NONE = {0, {}, effects()}
local current = tonumber(redis.call('ZSCORE', schedules, schedule) or nil)
if not current or run_id(schedule, current) ~= request.job then return NONE end
local stored = redis.call('HMGET', record, 'name', 'data', 'offset', 'toril', 'toril.paused')
if not stored[1] or stored[5] then return NONE end

local due = request.due
if every then
  due = current + every
  if due < now then due = slot_after(now, every, whole(stored[3])) end
end
if redis.call('EXISTS', Q .. ':' .. run_id(schedule, due)) == 1 then
  emit_capped(Q, 'duplicated', 'jobId', run_id(schedule, due))
  return NONE
end
redis.call('ZADD', schedules, due, schedule)
redis.call('HINCRBY', record, 'ic', 1)
run.name, run.data, run.toril = stored[1], stored[2] or '{}', stored[4] or nil
local id, job = add_run(Q, schedule, due, run, now)
--- @when saved
tell_saved(Q, id, job)
--- @end
return {due, told(id, job), effects()}
