-- Take an open child off its parent: it becomes a job of its own, and the parent waits for it no
-- more.
--
-- Keys:      [1] the queue of the child; the parent may be in another queue of the slot
-- Arguments: [1] msgpack {id = text, record}
-- Returns:   1; 0: its parent does not wait for it (any more), and nothing is changed
--            -1: no such job, -5: it has no parent, or none that exists; -20: late
-- Events:    waiting {jobId, prev = waiting-children}, if the parent waited for nothing else; as
--            BullMQ does it, with no regard to the parent's priority and delay

--- @include "record"
--- @include "parent"

local Q = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])
local key = KEYS[1] .. ':' .. request.id

local function unlink()
  if redis.call('TYPE', key).ok ~= 'hash' then return -1 end
  local stored = redis.call('HMGET', key, 'parentKey', 'parent')
  local parent = parent_of(stored[1], stored[2])
  if not parent or redis.call('EXISTS', parent.key) == 0 then return -5 end
  local open = parent.key .. ':dependencies'
  if redis.call('SISMEMBER', open, key) == 0 then return 0 end
  -- The first write is one that a full server allows.
  if unlink_child(parent, key) then release_plainly(parent) end
  redis.call('HDEL', key, 'parentKey', 'parent')
  return 1
end

local again = recorded(Q, request.record)
if again then return again end
return keep_record(Q, request.record, unlink())
