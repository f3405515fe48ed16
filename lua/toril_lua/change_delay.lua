-- Give a delayed job another delay, counted from now.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {id = text, delay = ms, now = ms, record}
-- Returns:   0; -1: no such job, -3: it is not delayed, -20: late
-- Events:    delayed {jobId, delay}, capped

--- @include "record"
--- @include "enqueue"

local Q = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])
local id, key = request.id, KEYS[1] .. ':' .. request.id

local function change()
  if redis.call('TYPE', key).ok ~= 'hash' then return -1 end
  if not redis.call('ZSCORE', Q .. ':delayed', id) then return -3 end
  -- Begins with a write that a full server allows: an operator can still let a job come later.
  cut_events(Q)
  -- BullMQ finds the new score before it takes the old one out, and so do we.
  push_delayed(Q, id, request.now + request.delay)
  redis.call('HSET', key, 'delay', int(request.delay))
  mark_delayed(Q)
  return 0
end

local again = recorded(Q, request.record)
if again then return again end
return keep_record(Q, request.record, change())
