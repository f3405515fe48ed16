-- Remove jobs in whatever state they are, on request with all their children, or the open ones.
--
-- Keys:      [1] the queue of the call; the jobs may be in other queues of the slot
-- Arguments: [1] msgpack {targets = {{queue, id}, ...} up to 50, children = boolean,
--                         open = boolean: a lock on a target counts, cause = text,
--                         want_removed = boolean, now = ms,
--                         doomed = {key = true} of jobs that the caller will remove next,
--                         look = boolean: only say what would become of them; writes nothing,
--                         unprocessed = boolean: with children, only those that have not ended;
--                         what is locked or has failed is left, at any level}
-- Returns:   {{code, ...}, {{queue, id, plugin, reason}, ...} of what is kept, effects}, a code per
--            target, in order; fewer codes than targets if the limit of 50 jobs a call was
--            reached, or long lists had to be looked through.
--            1 removed, 0 there was none (its id is in no set any more)
--            -8: the pending iteration of a scheduler
--            -21: locked, or an open job below it is; nothing removed of this target
--            -22: more than 50 jobs, or 500 children, below it: remove the children first
--            -24: a plugin keeps it, or a job below it; nothing removed of this target
--            -26: left, as it is locked or has failed (unprocessed)
-- Events:    removed {jobId, prev}, capped, per job in its own queue;
--            waiting {jobId, prev = waiting-children} where a parent lost its last open child
-- Seam:      removing, removed
--
-- As BullMQ does it: a living parent loses the child, and runs if it was the last open one, with no
-- regard to its priority and delay. The parents among the removed are released, too, before
-- they go; only `doomed` ones are not, as the caller needs several calls for them and no worker
-- shall get hold of them meanwhile. A lock on a child that has finished protects nothing, and
-- neither do the locks below it; the lock of an active one goes along.

--- @include "take-away"
--- @include "enqueue"
--- @include "kept"
--- @when removing
--- @include "keep"
--- @end

local request = cmsgpack.unpack(ARGV[1])
want_removed = request.want_removed
--- @when removed, removing
seam.now = request.now
--- @end

local PENDING, LOCKED, TOO_LARGE, KEPT, LEFT = -8, -21, -22, -24, -26
local MAX_JOBS, MAX_LOOKS, MAX_COMPARED = 50, 500, 100000
local jobs_left, looks_left = MAX_JOBS, MAX_LOOKS

-- Where a job's children are: suffix, how to count them, how to read them.
local CHILDREN = {
  {'processed', 'HLEN', 'HKEYS'}, {'failed', 'HLEN', 'HKEYS'},
  {'unsuccessful', 'ZCARD', 'ZRANGE', 0, -1}, {'dependencies', 'SCARD', 'SMEMBERS'},
}
if not request.children then CHILDREN = {} end
if request.unprocessed and request.children then CHILDREN = {CHILDREN[4]} end

-- Why a job cannot be removed, whatever is below it: nil or a code. `open`: see `tree_of`.
local function objection_to(Q, id, key, open)
  local locked = redis.call('EXISTS', key .. ':lock') == 1
  if request.unprocessed then
    return (locked or redis.call('ZSCORE', Q .. ':failed', id)) and LEFT or nil
  end
  return open and locked and LOCKED or nil
end

-- The job with all jobs below it, or nil and a code. Writes nothing. `open`: it hangs on the root
-- by open dependencies only, so that its lock counts.
local function tree_of(Q, id, open, seen, cause)
  local node = {queue = Q, id = id, links = links_of(Q, id), children = {}}
  local key = node.links.key
  seen[key] = true
  local refused = objection_to(Q, id, key, open)
  if refused then return nil, refused end
  jobs_left = jobs_left - 1
  if jobs_left < 0 then return nil, TOO_LARGE end
--- @when removing
  is_kept(Q, id, outcome_of(Q, id), cause)
--- @end
  for _, place in ipairs(CHILDREN) do
    local size = redis.pcall(place[2], key .. ':' .. place[1])
    if type(size) ~= 'number' then size = 0 end -- not what it should be: nobody's children
    looks_left = looks_left - size
    if looks_left < 0 then return nil, TOO_LARGE end
    local keys = size > 0 and redis.call(place[3], key .. ':' .. place[1], unpack(place, 4)) or {}
    for _, child_key in ipairs(keys) do
      local child_queue, child_id = string.match(child_key, '^(.+):([^:]+)$')
      if child_queue and not seen[child_key] and redis.call('EXISTS', child_key) == 1 then
        local still_open = open and place[1] == 'dependencies'
        local child, code = tree_of(child_queue, child_id, still_open, seen, 'parent')
        if not child and code ~= LEFT then return nil, code end
        node.children[#node.children + 1] = child
      end
    end
  end
  return node
end

-- Returns whether there was a job.
local function remove_tree(node, cause)
  local Q, id, links = node.queue, node.id, node.links
  if links.parent and not request.doomed[links.parent.key] then
    local ok, released = pcall(unlink_child, links.parent, links.key)
    if ok and released then release_plainly(links.parent) end
  elseif links.parent then
    redis.pcall('SREM', links.parent.key .. ':dependencies', links.key)
  end
  for _, child in ipairs(node.children) do remove_tree(child, 'parent') end
  return take_away(Q, id, links, cause)
end

local codes = {}
for _, target in ipairs(request.targets) do
  if compared > MAX_COMPARED then break end
  local kept_before = #kept
  local node, code = tree_of(target[1], target[2], request.open, {}, request.cause)
  if code == TOO_LARGE and #codes > 0 then break end
  if node and #kept > kept_before then
    node, code = nil, KEPT
  end
  if node and is_pending_iteration(node.queue, node.id, node.links) then
    node, code = nil, PENDING
  end
  if node then code = (request.look or remove_tree(node, request.cause)) and 1 or 0 end
  codes[#codes + 1] = code
end
return {codes, kept, effects()}
