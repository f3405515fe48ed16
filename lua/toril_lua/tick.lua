-- Ends attempts of up to 100 active jobs and picks up as many others, in one step.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {now, record, finishes = {item, ...}, fetch, want_removed, metrics}
--            item = {id, token, kind, text, head, more}; kind: 'completed', 'failed' (for good),
--            'retry' (at once), 'delay', 'wait' (given back, counts no attempt). text: the result
--            as JSON or the reason, false if none. head: look in active from the head.
--            more = false or {stack, attempts, delay (ms), lifo, skip (count no attempt), cause,
--            plans = {plugin = value}, undecided, hold (ms: with 'wait', a rate limit for all)}
--            fetch = nil or {token, lock (ms), limit, name, max, duration (ms)}
--            metrics = nil or of how many minutes the numbers of ended jobs are kept
-- Returns:   {codes, {{id, hash}, ...}, ids dropped, next due (ms, -1: none), rate limited for
--            (ms, 0: not), blocked (paused or maxed), more, effects}; or -20: late.
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
--- @when finished, finished_batch
--- @include "seam-finish"
--- @end

local Q = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])
local now, record, wanted = request.now, request.record, request.fetch

local kept = recorded(Q, record)
if type(kept) == 'table' then
  -- This very tick has been executed. Its jobs are those that its lock still holds.
  local jobs = {}
  for _, id in ipairs(kept[2]) do
    if redis.call('GET', Q .. ':' .. id .. ':lock') == wanted.token then
      jobs[#jobs + 1] = {id, redis.call('HGETALL', Q .. ':' .. id)}
    end
  end
  kept[2] = jobs
end
if kept then return kept end

local meta = redis.call('HMGET', Q .. ':meta',
  'paused', 'concurrency', 'max', 'duration', 'opts.maxLenEvents', 'toril.events.values'
--- @when finished, finished_batch
  , unpack(CHUNK_META)
--- @end
)
-- First of all writes, as a full server allows it; that allows the others too.
local max_len = whole(meta[5])
redis.call('XTRIM', Q .. ':events', 'MAXLEN', '~', max_len > 0 and max_len or DEFAULT_MAX_EVENTS)
max_events(Q, meta[5])
finishing.values = not meta[6]

local codes = {}
if #request.finishes > 0 then codes = end_attempts(Q, request.finishes, now, fetched.dropped) end

-- Counts the jobs that have ended, for who draws charts of them.
if request.metrics and finishing.ended > 0 then
--- @local "minutes"
  local ends = {completed = 0, failed = 0}
  for i, item in ipairs(request.finishes) do
    if ends[item[3]] and codes[i] >= 0 then ends[item[3]] = ends[item[3]] + 1 end
  end
  for outcome, number in pairs(ends) do
    -- Garbled keys of charts keep no job from ending.
    if number > 0 then pcall(count_ends, Q, outcome, number, now, request.metrics) end
  end
end

-- Wakes another worker where something is left to take, and says so when nothing is left at all.
local function conclude()
  local due = -1
  if wanted and #fetched.jobs < wanted.limit then due = next_due(Q) end
  local waiting = redis.call('LLEN', Q .. ':wait') > 0
    or redis.call('ZCARD', Q .. ':prioritized') > 0
  local overdue = fetched.promoted == MAX_PROMOTED
  if waiting or overdue then
    local ready = fetched.limited == 0 or finishing.pushed or fetched.promoted > 0
    if ready and not is_blocked(Q, meta) then mark(Q) end
  else
    fetched.more = false
    if finishing.ended > 0 and #fetched.jobs == 0 and due == -1 and fetched.limited == 0
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
  ok, problem = pcall(fetch, Q, wanted, meta, now)
end
local concluded, due = pcall(conclude)
if not concluded then ok, problem, due = false, due, -1 end
if not ok and #codes == 0 and #fetched.jobs == 0 then error(problem, 0) end
--- @when finished, finished_batch

if #finished_jobs > 0 then
  local known = {}
  for i, field in ipairs(CHUNK_META) do known[field] = meta[6 + i] end
  seam.meta[Q] = known
  tell_chunks(Q, now, request.want_removed)
end
--- @end

local told = effects()
if record then
  local ids = {}
  for i, job in ipairs(fetched.jobs) do ids[i] = job[1] end
  keep_record(Q, record, {codes, ids, fetched.dropped, due, fetched.limited,
    fetched.blocked and 1 or 0, fetched.more and 1 or 0, told})
end
return {codes, fetched.jobs, fetched.dropped, due, fetched.limited, fetched.blocked and 1 or 0,
  fetched.more and 1 or 0, told}
