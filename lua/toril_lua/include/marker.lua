--- @include "queue-state"
-- Waking workers: idle ones block on the queue's marker.

-- "There may be a job to take now."
local function mark(Q)
  redis.call('ZADD', Q .. ':marker', 0, '0')
end

-- Wakes a worker if a job waits and may be taken.
local function wake(Q)
  if anything_waits(Q) and not blocked_now(Q) then mark(Q) end
end
