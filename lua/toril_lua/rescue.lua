-- Fails a job of which somebody has decided that it must fail, and whom no worker has taken: as a
-- worker that takes it does, in one step.
--
-- Keys:      [1] the job's queue, [2] the queue in whose `toril:deferred` it was found
-- Arguments: [1] msgpack {now, record, item = {id, token, 'failed', reason, true, more} (see
--                         `tick`), lock (ms), defa = what was decided, as read before,
--                         want_removed}
-- Returns:   {code, effects}; or -20: late. Codes: 0 done, -1 there is nothing to do any more;
--            -3 not now: its queue is paused, or it does not wait; looked at again later;
--            -23 garbled: it waits again, and is not looked at again.
-- Events:    active, failed, retries-exhausted, drained; waiting (a delayed one); removed; added
-- Seam:      finished, finished_batch, removed, saved
--
-- Whoever takes it out of where it waits first has it: this script or a worker. Concurrency and
-- rate limits do not count, as no handler runs.

--- @include "record"
--- @include "promote"
--- @include "queue-state"
--- @include "finish"
--- @include "fetch"
--- @include "effects"

local DONE, OVER, NOT_NOW, CORRUPT = 0, -1, -3, -23

local Q, finder = KEYS[1], KEYS[2]
local request = cmsgpack.unpack(ARGV[1])
local now, item = request.now, request.item
local id = item[1]
local key = Q .. ':' .. id

local again = recorded(Q, request.record)
if again then return again end

-- Allowed on a full server; that allows the other writes too.
trim_events(Q)

local function take_out()
  local due = redis.call('ZSCORE', Q .. ':delayed', id)
  if due and tonumber(due) / SLOTS_PER_MS < now + 1 then
    redis.call('ZREM', Q .. ':delayed', id)
    promote_one(Q, id)
  end
  return redis.call('LREM', Q .. ':wait', -1, id) > 0
    or redis.call('ZREM', Q .. ':prioritized', id) == 1
end

local taken = false -- it is out of the place in which it waited

local function let_wait_again()
  redis.pcall('DEL', key .. ':lock')
  redis.pcall('LREM', Q .. ':active', 1, id)
  pcall(push_front, Q, id, whole(redis.call('HGET', key, 'priority')))
end

local function rescue()
  local decided = redis.call('HGET', key, 'defa')
  if not decided or redis.call('ZSCORE', Q .. ':failed', id) then return OVER end
  local meta = redis.call('HMGET', Q .. ':meta', 'paused', 'toril.events.values')
  if meta[1] or decided ~= request.defa
    or redis.call('EXISTS', key .. ':lock') == 1 or not take_out() then
    redis.call('ZADD', finder .. ':toril:deferred', 'XX', now, key)
    return NOT_NOW
  end
  local hash, _, started = read_job(key)
  if not hash then return OVER end
  taken = true
  redis.call('LPUSH', Q .. ':active', id)
  pick_up(Q, id, started, now, item[2], request.lock)
  finishing.finder, finishing.values = finder, not meta[2]
  return end_attempts(Q, {item}, now, fetched.dropped)[1] >= 0 and DONE or CORRUPT
end

local ok, code = pcall(rescue)
if not ok then code = CORRUPT end
if code == CORRUPT and taken then let_wait_again() end
if code ~= NOT_NOW then
  redis.pcall('ZREM', finder .. ':toril:deferred', key)
  redis.pcall('ZREM', Q .. ':toril:deferred', key)
end
if code == DONE then
  if anything_waits(Q) then
    if finishing.pushed then wake(Q) end
  elseif next_due(Q) == -1 and redis.call('LLEN', Q .. ':active') == 0 then
    emit(Q, 'drained')
  end
--- @when finished, finished_batch
--- @local "seam-finish"
  tell_chunks(Q, now, request.want_removed)
--- @end
end
return keep_record(Q, request.record, {code, effects()})
