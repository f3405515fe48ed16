-- One slice of removing a queue with everything in it.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {action = 'look', 'jobs', 'keys' or 'end', force = boolean,
--                         position = {set, skip} (action look),
--                         keys = further keys to delete, up to 500 (action keys),
--                         want_removed, now = ms}
-- Returns:   {code, id or {position to go on from}, {{queue, id, plugin, reason}, ...} of what is
--            kept, effects}
--            code 1: there is more, call again; 0: done
--            -1: the queue is not paused; -2: the job `id` is active and it is not forced
--            -24: plugins keep jobs; they stay, and no more than they are looked at
-- Events:    waiting {jobId, prev = waiting-children} where a parent of another queue lost its last
--            open child
-- Seam:      removing, removed
--
-- A look at all jobs, which writes nothing, comes before. Then jobs (with the locks of the active
-- ones), then schedulers; only when there are none, keys named by the caller that belong to the
-- queue, and at the end the queue's own keys. Unlike BullMQ's this removes parents in
-- waiting-children, too, and leaves nothing of the queue behind.

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

local SETS = {'active', 'delayed', 'completed', 'wait', 'paused', 'prioritized', 'failed',
  'waiting-children'}
local OWN_KEYS = {'events', 'delay', 'stalled-check', 'stalled', 'id', 'pc', 'marker', 'meta',
  'limiter', 'repeat', 'priority', 'metrics:completed', 'metrics:failed', 'metrics:completed:data',
  'metrics:failed:data'}
local MAX_SCHEDULERS = 100

if request.action == 'look' then
  local following
--- @when removing
  following = walk(q, SETS, request.position, MAX_TAKEN, function(name, id)
    is_kept(q, id, outcome_in(name), 'obliterate')
    return false
  end)
--- @end
  return {#kept > 0 and -24 or following and 1 or 0, following or {}, kept, effects()}
end
if redis.call('HEXISTS', q .. ':meta', 'paused') == 0 then return {-1, '', kept, effects()} end
local running = redis.call('LINDEX', q .. ':active', -1)
if running and not request.force then return {-2, running, kept, effects()} end

local function obliterate(name, id)
--- @when removing
  if is_kept(q, id, outcome_in(name), 'obliterate') then return false end
--- @end
  local links = links_of(q, id)
  drop(q, name, id)
  discard(q, id, name, links, 'obliterate')
  if name == 'active' then redis.call('DEL', links.key .. ':lock') end
  local parent = links.parent
  if parent and parent.queue ~= q then
    local ok, alone = pcall(unlink_child, parent, links.key)
    if ok and alone then release_plainly(parent) end
  end
  return true
end

local following = walk(q, SETS, {1, 0}, MAX_TAKEN, obliterate)
if #kept > 0 then return {-24, '', kept, effects()} end
if following then return {1, '', kept, effects()} end

local schedulers = redis.call('ZRANGE', q .. ':repeat', 0, MAX_SCHEDULERS - 1)
for _, name in ipairs(schedulers) do
  redis.call('UNLINK', q .. ':repeat:' .. name)
  redis.call('ZREM', q .. ':repeat', name)
end
if #schedulers == MAX_SCHEDULERS then return {1, '', kept, effects()} end

if request.action == 'keys' then
  for _, key in ipairs(request.keys) do
    if string.sub(key, 1, #q + 1) == q .. ':' then redis.call('UNLINK', key) end
  end
elseif request.action == 'end' then
  for i, name in ipairs(OWN_KEYS) do OWN_KEYS[i] = q .. ':' .. name end
  redis.call('UNLINK', unpack(OWN_KEYS))
end
return {0, '', kept, effects()}
