--- @include "parent"
-- What the end of a job means to its parent, and to its deduplication window. Made when the first
-- job of a call ends that has one of them.

local parents = {} -- by how a child names it: mostly several children of one end together

-- Closes the deduplication window of a job that has ended. Returns the code: a window whose keys
-- are garbled does not keep the job from ending.
local function end_window(Q, deduplication_id, id)
--- @local "deduplication"
--- @when saved
  seam.now = finishing.now
--- @end
  local ok, added = pcall(close_window, Q, deduplication_id, id, finishing.now)
  if added then finishing.open, finishing.pushed = true, true end
  return ok and 0 or 1
end

-- Tells the parent; one whose keys are garbled does not keep its child from ending either.
-- Returns the code, and whether the child still keeps the parent waiting.
local function tell_parent(Q, key, kind, text, parent_key)
  local named = redis.call('HGET', key, 'parent')
  local parent = named and parents[named]
  if not parent or parent.key ~= parent_key then
    parent = parent_of(parent_key, named)
    if not parent then return 0, false end
    if named then parents[named] = parent end
  end
  local tell = kind == 'completed' and child_completed or child_failed
  local ok, blocks = pcall(tell, parent, key, text, finishing.now, {Q, finishing.finder})
  if not ok then return 1, false end
  return 0, blocks or false
end

-- Both. Returns the code, and whether the job still keeps its parent waiting.
local function tell_relations(Q, id, key, kind, text, stored)
  local window, told, blocks = 0, 0, false
  if stored[4] then window = end_window(Q, stored[4], id) end
  if stored[3] then told, blocks = tell_parent(Q, key, kind, text, stored[3]) end
  return math.max(window, told), blocks
end
