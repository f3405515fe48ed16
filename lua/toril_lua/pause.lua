-- Pause a queue, or let it run again.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {paused = boolean}
-- Returns:   1 if the old list of a paused queue holds more ids (call again), else 0
-- Events:    paused, resumed
--
-- Jobs stay where they are; only fetches stop. The list `paused`, in which BullMQ 5 kept the jobs
-- of a paused queue, is joined to the waiting ones on resuming, up to 1000 a call, its tail staying
-- next to run; the event comes with the last of them.

--- @include "enqueue"

local q = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])
local MAX_MOVED = 1000

if request.paused then
  redis.call('DEL', q .. ':marker')
  redis.call('HSET', q .. ':meta', 'paused', 1)
  emit(q, 'paused')
  return 0
end

redis.call('HDEL', q .. ':meta', 'paused')
local old, wait = q .. ':paused', q .. ':wait'
if redis.call('EXISTS', old) == 1 then
  if redis.call('EXISTS', wait) == 0 then
    redis.call('RENAME', old, wait)
  else
    redis.call('RPUSH', wait, unpack(redis.call('LRANGE', old, 0, MAX_MOVED - 1)))
    redis.call('LTRIM', old, MAX_MOVED, -1)
  end
end
if anything_waits(q) then mark(q) else mark_delayed(q) end
if redis.call('EXISTS', old) == 1 then return 1 end
emit(q, 'resumed')
return 0
