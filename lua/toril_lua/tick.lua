-- Ends attempts of up to 100 active jobs and picks up as many others, in one step.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {now, record, {item, ...}, fetch, want_removed, minutes, offset}; false or
--            nil: none
--            item = {id, token, kind, text, head, more}; kind: 'completed', 'failed' (for good),
--            'retry' (at once), 'delay', 'wait' (given back, counts no attempt). text: the result
--            as JSON or the reason, false if none. head: look in active from the head.
--            more = false or {stack, attempts, delay (ms), lifo, skip (count no attempt), cause,
--            plans = {plugin = value}, undecided, hold (ms: with 'wait', a rate limit for all)}
--            fetch = {token, lock (ms), limit, name, max, duration (ms)}; false: none
--            minutes = of how many the numbers of ended jobs are kept
--            offset = by how many ms the caller's clock is ahead of the server's: the call was sent
--            before its time, and `now` is the time at which it is carried out
-- Returns:   {codes, next due (ms, -1: none), rate limited for (ms, 0: not), blocked (paused or
--            maxed), more, ids dropped, effects, {id, hash, id, hash, ...}, now (if an offset
--            was sent)}; 0 for an empty list; or -20: late. The hashes are as they were before:
--            without the name of the worker, the time and one more attempt started, which are
--            written to them.
--            Codes: 0 done, 1 done but keys of its parent or its deduplication window are garbled,
--            -1 no such job, -2 no lock,
--            -3 not active, -4 open children, -6 another's lock, -9 failed children, -23 garbled:
--            still active.
-- Events:    completed, failed, retries-exhausted, waiting, delayed, active, drained; removed;
--            added (a job that was kept while the owner of its deduplication window ran)
-- Seam:      finished, finished_batch, removed, saved

--- @include "record"
--- @include "events"
--- @include "marker"
--- @include "finish"
--- @include "fetch"
--- @include "effects"

local LONG_META = 50 -- fields; each hold for one id is one

local Q = KEYS[1]
local now, record, finishes, wanted, wants_removed, minutes, offset =
  unpack(cmsgpack.unpack(ARGV[1]))

local kept = recorded(Q, record)
if type(kept) == 'table' then
--- @local "held-again"
  kept[8] = held_again(Q, kept[8], wanted and wanted[1])
end
if kept then return kept end

if offset then
  local time = redis.call('TIME')
  now = math.floor(time[1] * 1000 + time[2] / 1000 + offset)
end

-- All of it, where it is short: that costs less than asking for the fields that a call may need.
local meta = {}
local whole_meta = redis.call('HLEN', Q .. ':meta') <= LONG_META
if whole_meta then
  local fields = redis.call('HGETALL', Q .. ':meta')
  for i = 1, #fields, 2 do meta[fields[i]] = fields[i + 1] end
else
  local fields = {
    'paused', 'concurrency', 'max', 'duration', 'opts.maxLenEvents', 'toril.events.values',
--- @when finished, finished_batch
    early_fields()
--- @end
  }
  for i, value in ipairs(redis.call('HMGET', Q .. ':meta', unpack(fields))) do
    meta[fields[i]] = value
  end
end

-- First of all writes, as a full server allows it; that allows the others too.
local stored_max = meta['opts.maxLenEvents'] or false
redis.call('XTRIM', Q .. ':events', 'MAXLEN', '~', cap_of(stored_max))
max_events(Q, stored_max)
finishing.values = not meta['toril.events.values']

local codes = {}
if #finishes > 0 then codes = end_attempts(Q, finishes, now, fetched.dropped) end

-- Counts the jobs that have ended, for who draws charts of them.
if minutes and finishing.ended > 0 then
--- @local "minutes"
  local ends = {completed = 0, failed = 0}
  for i, item in ipairs(finishes) do
    if ends[item[3]] and codes[i] >= 0 then ends[item[3]] = ends[item[3]] + 1 end
  end
  for outcome, number in pairs(ends) do
    -- Garbled keys of charts keep no job from ending.
    if number > 0 then pcall(count_ends, Q, outcome, number, now, minutes) end
  end
end

-- Wakes another worker where something is left to take, and says so when nothing is left at all.
local function conclude()
  local due = -1
  if wanted and #fetched.ids < wanted[3] then due = fetched.due or next_due(Q) end
  local waiting = redis.call('LLEN', Q .. ':wait') > 0
    or redis.call('ZCARD', Q .. ':prioritized') > 0
  local overdue = fetched.promoted == MAX_PROMOTED
  if waiting or overdue then
    local ready = fetched.limited == 0 or finishing.pushed or fetched.promoted > 0
    if ready and not is_blocked(Q, meta.paused, meta.concurrency) then mark(Q) end
  else
    fetched.more = false
    if finishing.ended > 0 and #fetched.ids == 0 and due == -1 and fetched.limited == 0
      and not fetched.blocked and redis.call('LLEN', Q .. ':active') == 0 then
      emit(Q, 'drained')
    end
  end
  return due
end

-- What has been ended or picked up is answered for in any case. A garbled queue is told of by the
-- next call, which finds nothing to do.
local ok, problem = true, nil
if finishing.held then -- who asked for it takes none either, whatever limits it knows
  fetched.limited = math.max(redis.call('PTTL', Q .. ':limiter'), 1)
elseif wanted then
  ok, problem = pcall(fetch, Q, meta, now, unpack(wanted))
end
local concluded, due = pcall(conclude)
if not concluded then ok, problem, due = false, due, -1 end
if not ok and #codes == 0 and #fetched.ids == 0 then error(problem, 0) end
--- @when finished, finished_batch

-- Where no chunk has anything to do nothing of the seam is even defined.
local awake, seen = not MAY_SLEEP, {}
if finishing.undecided then
  awake = true -- a plugin could not say its plan: no look knows what its chunk is to do
elseif finishing.ended > 0 and (finishing.planned or may_wake(meta)) then
  local plugin -- whose turn it is
  -- Of the jobs that ended so their ids and names, and, by their numbers, what the plugin planned
  -- for them, and the keys of their parents.
  local function list(outcome)
    local ids, names, plans, parents = {}, {}, {}, {}
    for i = 1, #finished_jobs, 2 do
      local item, stored = finished_jobs[i], finished_jobs[i + 1]
      if item[3] == outcome then
        local n = #ids + 1
        ids[n], names[n], parents[n] = item[1], stored[1], stored[3] or nil
        if item[6] and item[6].plans then plans[n] = item[6].plans[plugin] end
      end
    end
    return ids, names, plans, parents
  end
  local function remove(outcome, ids, rule, value)
--- @local "remove-known"
    return #ids <= MOST_KNOWN and remove_known(Q, outcome, ids, plugin, rule, #ids == 1, value)
  end
  want_removed = wants_removed
  local ctx = {
    q = Q, now = now, fields = meta, planned = finishing.planned, list = list,
    ended = {completed = finishing.ended - finishing.failed, failed = finishing.failed},
    remove_known = remove,
  }
  for _, look in ipairs(looks_of_plugins()) do
    plugin = look[1]
    ctx.seen = seen[plugin] or {}
    seen[plugin] = ctx.seen
    local looked, found = pcall(look[2], ctx)
    awake = awake or found or not looked
  end
end
if awake and finishing.ended > 0 then
--- @local "seam-finish"
  seam.meta[Q], seam.whole, seam.seen = meta, whole_meta and Q, seen
  tell_chunks(Q, now, wants_removed)
end
--- @end

-- An empty table in a reply costs more than a number.
local reply = {
  #codes > 0 and codes or 0, due, fetched.limited, fetched.blocked and 1 or 0,
  fetched.more and 1 or 0, #fetched.dropped > 0 and fetched.dropped or 0, effects(), fetched.ids,
  offset and now,
}
keep_record(Q, record, reply)
reply[8] = fetched.jobs or 0
return reply
