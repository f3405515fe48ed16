-- Give a job another priority. One that waits for its turn gets its place by it.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {id = text, priority = 0 (none) or more, lifo = boolean: before all others
--                         of that priority, record}
-- Returns:   0; -1: no such job, -20: late
-- Events:    none

--- @include "record"
--- @include "enqueue"
--- @include "lists"

local Q = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])
local id, key, priority = request.id, KEYS[1] .. ':' .. request.id, request.priority

local function take_out()
  return redis.call('ZREM', Q .. ':prioritized', id) == 1
    or take_from_list(Q .. ':wait', id)
end

local function change()
  if redis.call('TYPE', key).ok ~= 'hash' then return -1 end
  -- Begins with a write that a full server allows: a job taken out of its place gets a new one.
  cut_events(Q)
  if take_out() then
    if request.lifo then
      push_front(Q, id, priority)
    else
      push(Q, id, priority, false)
    end
    -- BullMQ wakes nobody for the front of a priority: the job waited before, too.
    if not (request.lifo and priority > 0) and not blocked_now(Q) then mark(Q) end
  end
  redis.call('HSET', key, 'priority', int(priority))
  return 0
end

local again = recorded(Q, request.record)
if again then return again end
return keep_record(Q, request.record, change())
