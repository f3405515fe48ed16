--- @include "queue-state"
-- Waking workers: idle ones block on the queue's marker.

-- "There may be a job to take now."
local function mark(Q)
  redis.call('ZADD', Q .. ':marker', 0, '0')
end

-- "The earliest delayed job is due then."
local function mark_delayed(Q)
  local first = redis.call('ZRANGE', Q .. ':delayed', 0, 0, 'WITHSCORES')
  if first[2] then
    redis.call('ZADD', Q .. ':marker', tonumber(first[2]) / 4096, '1')
  end
end

-- Wakes a worker if a job waits and may be taken.
local function wake(Q)
  if anything_waits(Q) and not blocked(Q) then mark(Q) end
end
