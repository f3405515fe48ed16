--- @include "numbers"
--- @include "events"
--- @include "enqueue"
--- @include "store"
-- Schedules (BullMQ's job schedulers): `repeat` holds their names by the time of their current
-- run, `repeat:<name>` what they are, and a run is a job with the id `repeat:<name>:<time>`.

local function run_id(name, due)
  return 'repeat:' .. name .. ':' .. int(due)
end

-- The first time after now in an interval's grid.
local function slot_after(now, every, offset)
  local slot = math.floor(now / every) * every + offset
  return slot > now and slot or slot + every
end

-- Adds the run of a schedule that is due then. run = {name, data, opts, repetition (the options
-- that BullMQ keeps in each run, as JSON), pattern = boolean, priority, lifo, deid, toril}; `opts`
-- is JSON too, without what is known only here. What plugins store stands among the options, which
-- every library hands on from run to run; a field of the job would be lost.
-- Returns the id and the job as it is stored.
local function add_run(Q, schedule, due, run, now)
  local id, delay = run_id(schedule, due), math.max(0, due - now)
  local known = string.format('"jobId":%s,"repeatJobKey":%s,"timestamp":%s,"delay":%s,"repeat":%s',
    cjson.encode(id), cjson.encode(schedule), int(now), int(delay), run.repetition)
  if run.pattern then known = known .. ',"prevMillis":' .. int(due) end
  if run.toril then known = known .. ',"toril":' .. run.toril end
  local opts = string.sub(run.opts, 1, -2) .. (run.opts == '{}' and '' or ',') .. known .. '}'
  local job = {
    name = run.name, data = run.data, opts = opts, timestamp = now, delay = delay,
    priority = run.priority, lifo = run.lifo, deid = run.deid, rjk = schedule,
  }
  redis.call('INCR', Q .. ':id')
  store_job(Q, id, job)
  if push_new(Q, id, job) then
    mark_delayed(Q)
  elseif not blocked_now(Q) then
    mark(Q)
  end
  return id, job
end

-- A run as the caller is told of it.
local function told(id, job)
  return {id, job.name, job.data, job.opts, job.timestamp, job.delay, job.priority, job.deid or ''}
end
