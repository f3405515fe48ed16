--- @include "numbers"
--- @include "events"
--- @include "marker"
-- Putting jobs where workers find them.

local SLOTS_PER_MS = 4096 -- a delayed score is the due time in ms times this, plus a sequence
local PRIORITY_STEP = 4294967296 -- a priority score is the priority times this, plus a sequence

-- Into the list of waiting jobs, or among the prioritised ones; without a marker.
-- `next_to_run`: at the end from which workers take (no meaning with a priority).
local function push(Q, id, priority, next_to_run)
  if priority ~= 0 then
    local sequence = redis.call('INCR', Q .. ':pc') % PRIORITY_STEP
    redis.call('ZADD', Q .. ':prioritized', priority * PRIORITY_STEP + sequence, id)
  else
    redis.call(next_to_run and 'RPUSH' or 'LPUSH', Q .. ':wait', id)
  end
end

-- "The earliest delayed job is due then."
local function mark_delayed(Q)
  local first = redis.call('ZRANGE', Q .. ':delayed', 0, 0, 'WITHSCORES')
  if first[2] then
    redis.call('ZADD', Q .. ':marker', tonumber(first[2]) / 4096, '1')
  end
end

local function enqueue(Q, id, priority, next_to_run)
  push(Q, id, priority, next_to_run)
  if not blocked_now(Q) then mark(Q) end
end

-- Puts a job back so that it runs before others of its priority; without a marker.
local function push_front(Q, id, priority)
  if priority > 0 then
    redis.call('ZADD', Q .. ':prioritized', priority * PRIORITY_STEP, id)
  else
    redis.call('RPUSH', Q .. ':wait', id)
  end
end

-- The score of one more job due at that time: behind those that are due in the same millisecond.
local function delayed_score(Q, due)
  local lowest = due * SLOTS_PER_MS
  local highest = lowest + SLOTS_PER_MS - 1
  local last = redis.call('ZREVRANGEBYSCORE', Q .. ':delayed', int(highest), int(lowest),
    'WITHSCORES', 'LIMIT', 0, 1)
  if last[2] then return math.min(tonumber(last[2]) + 1, highest) end
  return lowest
end

-- Into the delayed set, with its event; without a marker.
local function push_delayed(Q, id, due)
  redis.call('ZADD', Q .. ':delayed', delayed_score(Q, due), id)
  emit_capped(Q, 'delayed', 'jobId', id, 'delay', int(due))
end

-- Puts a new job where it belongs, without a marker. Returns whether it is delayed.
local function push_new(Q, id, job)
  if (job.delay or 0) > 0 then
    push_delayed(Q, id, job.timestamp + job.delay)
    return true
  end
  push(Q, id, job.priority or 0, job.lifo)
  emit_capped(Q, 'waiting', 'jobId', id)
  return false
end
