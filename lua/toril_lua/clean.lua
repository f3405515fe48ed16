-- One slice of cleaning: remove jobs of a state that are older than a given time.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {sets = names of sets, before = ms, position = {set, skip},
--                         limit = 1..25, last = boolean: this slice reaches the limit of the whole
--                         cleaning, done = removed in earlier slices, want_removed, now = ms}
-- Returns:   {ids removed, {position to go on from} or {}, {{queue, id, plugin, reason}, ...} of
--            what is kept, effects}
-- Events:    cleaned {count}, once, with the last slice
-- Seam:      removing, removed
--
-- The age of a finished job is that of its end, of another that of its last pickup, else of its
-- creation (of a prioritised one always that of its creation).
-- Kept are: what a plugin keeps, what a worker runs, the iteration that a scheduler waits for, and
-- a job that keeps a living parent waiting. In the last case BullMQ deletes the parent, or lets it
-- run if it is in another queue; here cleaning never releases, fails or removes a job that nobody
-- named. Who means it removes the child or the parent by its id.

--- @include "numbers"
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

local LAST_TIME = 8640000000000000 -- ms; the last moment that JavaScript has
local TIMES = {
  delayed = {'processedOn', 'timestamp'}, prioritized = {'timestamp'},
  other = {'finishedOn', 'processedOn', 'timestamp'},
}

local function since(name, id, key)
  if name == 'completed' or name == 'failed' then
    local score = tonumber(redis.call('ZSCORE', q .. ':' .. name, id))
    -- A later score is no time: a plugin keeps the job out of the reach of others.
    if not score or score <= LAST_TIME then return score end
  end
  local times = redis.pcall('HMGET', key, unpack(TIMES[name] or TIMES.other))
  for i = 1, 3 do
    if times[i] then return whole(times[i]) end
  end
  return 0
end

local removed = {}

local function clean(name, id)
  local key = q .. ':' .. id
  local age = since(name, id, key)
  if not age or age > request.before then return false end
  if name == 'active' and redis.call('EXISTS', key .. ':lock') == 1 then return false end
  local links = links_of(q, id)
  local parent = links.parent
  if is_pending_iteration(q, id, links) or parent and keeps_waiting(parent.key, links.key) then
    return false
  end
--- @when removing
  if is_kept(q, id, outcome_in(name), 'clean') then return false end
--- @end
  drop(q, name, id)
  if discard(q, id, name, links, 'clean') then removed[#removed + 1] = id end
  if name == 'active' then wake(q) end
  return true
end

local following = walk(q, request.sets, request.position, request.limit, clean)
if not following or (request.last and #removed >= request.limit) then
  emit(q, 'cleaned', 'count', request.done + #removed)
  following = nil
end
return {removed, following or {}, kept, effects()}
