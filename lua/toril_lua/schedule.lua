-- Creates or replaces a schedule, with its next run.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {schedule = its name, now, fields = {field, value, ...} of its record,
--                         every = ms, start = ms, offset = ms (each if given) or due = ms,
--                         run = {name, data, opts, repetition, pattern, priority, lifo, deid,
--                         toril}, want_removed}
-- Returns:   {0, ms of the next run, {id, name, data, opts, timestamp, delay, priority, deid},
--            effects}, or {-10 or -11, 0, {}, effects}: runs with these ids exist already
-- Events:    added, waiting or delayed
-- Seam:      saved, removed
--
-- As BullMQ does it: the run that is still to come goes; an interval that has not changed keeps its
-- slot. The count of runs goes on.

--- @include "schedules"
--- @include "discard"
--- @include "lists"
--- @include "effects"
--- @include "saved"

local PATTERN_TAKEN, SLOTS_TAKEN, SLOTS = -10, -11, 32

local Q = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])
local schedule, now, every, run = request.schedule, request.now, request.every, request.run
local schedules, record = Q .. ':repeat', Q .. ':repeat:' .. request.schedule
want_removed = request.want_removed
--- @when saved, removed
seam.now = now
--- @end

-- Refused whole by a full server, before anything else is written.
redis.call('HSET', Q .. ':meta', 'opts.maxLenEvents', max_events(Q))

-- Takes away the run that is still to come. Returns whether there was one.
local function withdraw(id)
  for _, place in ipairs({'delayed', 'prioritized', 'wait'}) do
    local key = Q .. ':' .. place
    local was_there
    if place == 'wait' then
      was_there = take_from_list(key, id)
    else
      was_there = redis.call('ZREM', key, id) > 0
    end
    if was_there then
      discard(Q, id, place, links_of(Q, id), 'schedule')
      return true
    end
  end
  return false
end

local old = redis.call('HMGET', record, 'every', 'offset', 'ic', 'toril.paused')

local function next_due(previous)
  if not every then return request.due end
  if previous then
    -- Pausing has taken away a run whose time is still to come.
    local following = old[4] and previous > now and previous or previous + every
    return following < now and slot_after(now, every, request.offset or 0) or following
  end
  if request.start then return math.max(request.start, now) end
  return (request.offset or 0) > 0 and slot_after(now, every, request.offset) or now
end

local previous = tonumber(redis.call('ZSCORE', schedules, schedule) or nil)
local same_pace = every and tonumber(old[1] or nil) == every
local due = next_due((not every or same_pace) and previous or nil)
local withdrawn = previous and withdraw(run_id(schedule, previous))
if withdrawn and same_pace then due = previous end
local offset = every and request.offset or withdrawn and old[2]
  or int(every and due - math.floor(due / every) * every or 0)

local tries = every and SLOTS or 0
while redis.call('EXISTS', Q .. ':' .. run_id(schedule, due)) == 1 do
  if tries == 0 then return {every and SLOTS_TAKEN or PATTERN_TAKEN, 0, {}, effects()} end
  due, tries = due + every, tries - 1
end

redis.call('DEL', record)
redis.call('HSET', record, 'offset', offset, 'ic', old[3] or 1, unpack(request.fields))
redis.call('ZADD', schedules, due, schedule)
local id, job = add_run(Q, schedule, due, run, now)
--- @when saved
tell_saved(Q, id, job)
--- @end
return {0, due, told(id, job), effects()}
