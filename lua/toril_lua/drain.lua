-- One slice of draining: remove the jobs that wait for their turn.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {sets = names of sets, position = {set, skip}, limit = 1..25,
--                         want_removed, now = ms}
-- Returns:   {ids removed, {position to go on from} or {}, {{queue, id, plugin, reason}, ...} of
--            what is kept, effects}
-- Events:    waiting {jobId, prev = waiting-children} where a parent of another queue lost its last
--            open child
-- Seam:      removing, removed
--
-- The iteration that a scheduler waits for stays. A parent that loses its last open child goes
-- along if it waits in the same queue (and so on upwards), and runs if it is in another one: as
-- with BullMQ, which only leaves out the event. No parent is left waiting for jobs that are gone.
-- Exactly the ids of the removed jobs leave their sets. What a plugin keeps stays, and so does a
-- job with which such a parent would go.

--- @include "discard"
--- @include "enqueue"
--- @include "walk"
--- @include "kept"
--- @when removing
--- @include "keep"
--- @end

local q = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])
want_removed = request.want_removed
--- @when removed, removing
seam.now = request.now
--- @end

local removed = {}

--- @when removing
-- Whether a plugin keeps the job, or a parent that would go along with it.
local function keeps_any(id, links)
  while true do
    if is_kept(q, id, nil, 'drain') then return true end
    local parent = links.parent
    if not parent or parent.queue ~= q then return false end
    local dependencies = parent.key .. ':dependencies'
    if redis.pcall('SISMEMBER', dependencies, links.key) ~= 1
      or redis.call('SCARD', dependencies) > 1
      or not redis.call('ZSCORE', q .. ':waiting-children', parent.id) then
      return false
    end
    id, links = parent.id, links_of(q, parent.id)
  end
end

--- @end
local function drain(name, id, links)
  drop(q, name, id)
  if discard(q, id, name, links, 'drain') then removed[#removed + 1] = id end
  local parent = links.parent
  if not parent then return end
  local ok, alone = pcall(unlink_child, parent, links.key)
  if not ok or not alone then return end
  if parent.queue == q then
    drain('waiting-children', parent.id, links_of(q, parent.id))
  else
    release_plainly(parent)
  end
end

local following = walk(q, request.sets, request.position, request.limit, function(name, id)
  local links = links_of(q, id)
  if is_pending_iteration(q, id, links) then return false end
--- @when removing
  if keeps_any(id, links) then return false end
--- @end
  drain(name, id, links)
  return true
end)
return {removed, following or {}, kept, effects()}
