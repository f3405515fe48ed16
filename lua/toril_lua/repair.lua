-- Repairs one thing that an audit found, if it is still so.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {kind, id = of the job, or what the kind names, now,
--            children = keys of children (`missing-child`, `completed-child`)}
-- Returns:   1 repaired, 0 it is not so any more, or nobody can know what would be right
-- Events:    waiting, delayed (what waits again)
--
-- What has ended goes back to where its rule finds it, what has not runs (again), what is nobody's
-- goes. Nothing is repaired that a reader of BullMQ's data would take for a removal.

--- @include "numbers"
--- @include "events"
--- @include "enqueue"
--- @include "parent"

local Q = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])
local id, now = request.id, request.now
local key = Q .. ':' .. id

local SETS = {'completed', 'failed', 'waiting-children', 'delayed', 'prioritized'}
local LISTS = {'active', 'wait', 'paused'}
local PARTS = {'lock', 'logs', 'dependencies', 'processed', 'failed', 'unsuccessful'}
local LOCK_MS = 30000
local LAST_DATE = 8.64e15 -- ms: a score beyond every calendar is a mark, no time

local function exists()
  return redis.call('EXISTS', key) == 1
end

local function score(state)
  return redis.call('ZSCORE', Q .. ':' .. state, id)
end

local function listed(state)
  return #redis.call('LPOS', Q .. ':' .. state, id, 'COUNT', 0)
end

-- The states in which the job is, those first that tell most.
local function states()
  local found = {}
  for _, state in ipairs(SETS) do if score(state) then found[#found + 1] = state end end
  for _, state in ipairs(LISTS) do if listed(state) > 0 then found[#found + 1] = state end end
  return found
end

local function take_out(state)
  local is_list = redis.call('TYPE', Q .. ':' .. state).ok == 'list'
  if is_list then
    redis.call('LREM', Q .. ':' .. state, 0, id)
  else
    redis.call('ZREM', Q .. ':' .. state, id)
  end
end

local function unlink_parts()
  local keys = {}
  for n, part in ipairs(PARTS) do keys[n] = key .. ':' .. part end
  return redis.call('UNLINK', unpack(keys))
end

local function field(name)
  return redis.call('HGET', key, name) or nil
end

-- Whether all is there that a job needs to run.
local function is_whole()
  for _, name in ipairs({'name', 'data', 'opts', 'timestamp'}) do
    if not field(name) then return false end
  end
  return true
end

-- The state that agrees with what the hash says, or nil.
local function state_told()
  local finished = tonumber(field('finishedOn'))
  if finished and field('failedReason') and not field('returnvalue') then return 'failed' end
  if finished and field('returnvalue') then return 'completed' end
  if redis.call('EXISTS', key .. ':lock') == 1 then return 'active' end
  if redis.call('EXISTS', key .. ':dependencies') == 1 then return 'waiting-children' end
  return nil
end

local function put_back()
  redis.call('LREM', Q .. ':wait', 0, id)
  enqueue(Q, id, whole(field('priority')), false)
  emit(Q, 'waiting', 'jobId', id)
end

local function release_parent()
  return release_if_done({key = key, queue = Q, id = id}, now)
end

local repairs = {}

repairs['orphan-key'] = function() return not exists() and unlink_parts() > 0 end

repairs['no-hash'] = function()
  local found = states()
  if exists() or #found == 0 then return false end
  for _, state in ipairs(found) do take_out(state) end
  redis.call('SREM', Q .. ':stalled', id)
  unlink_parts()
  return true
end

repairs['no-state'] = function()
  if not exists() or #states() > 0 then return false end
  local told = state_told()
  if told == 'completed' or told == 'failed' then
    redis.call('ZADD', Q .. ':' .. told, field('finishedOn'), id)
  elseif told == 'waiting-children' then
    redis.call('ZADD', Q .. ':waiting-children', now, id)
  elseif is_whole() then
    put_back()
  else
    redis.call('UNLINK', key)
    unlink_parts()
  end
  return true
end

repairs['two-states'] = function()
  local found, told = states(), state_told()
  if not exists() or #found < 2 then return false end
  local kept = found[1]
  for _, state in ipairs(found) do if state == told then kept = told end end
  for _, state in ipairs(found) do if state ~= kept then take_out(state) end end
  return true
end

repairs['twice'] = function()
  local done = false
  for _, state in ipairs(LISTS) do
    local times = listed(state)
    if times > 1 then
      redis.call('LREM', Q .. ':' .. state, times - 1, id)
      done = true
    end
  end
  return done
end

repairs['score'] = function()
  local at = score('completed') or score('failed')
  if not at or tonumber(at) > LAST_DATE or not exists()
    or tonumber(field('finishedOn')) == tonumber(at) then
    return false
  end
  redis.call('HSET', key, 'finishedOn', at)
  return true
end

repairs['lock-left'] = function()
  return listed('active') == 0 and redis.call('DEL', key .. ':lock') == 1
end

repairs['lock-endless'] = function()
  return redis.call('PTTL', key .. ':lock') == -1
    and redis.call('PEXPIRE', key .. ':lock', LOCK_MS) == 1
end

repairs['stuck-parent'] = function() return release_parent() end

repairs['missing-child'] = function()
  local done = false
  for _, child in ipairs(request.children) do
    if redis.call('EXISTS', child) == 0
      and redis.call('SREM', key .. ':dependencies', child) == 1 then
      done = true
    end
  end
  release_parent()
  return done
end

repairs['completed-child'] = function()
  local done, parent = false, {key = key, queue = Q, id = id}
  for _, child in ipairs(request.children) do
    local queue, child_id = string.match(child, '^(.+):([^:]+)$')
    if queue and redis.call('ZSCORE', queue .. ':completed', child_id)
      and redis.call('SISMEMBER', key .. ':dependencies', child) == 1 then
      child_completed(parent, child, redis.call('HGET', child, 'returnvalue') or 'null', now)
      done = true
    end
  end
  return done
end

-- The service that rescues decided parents does the rest.
repairs['decided-parent'] = function()
  if not field('defa') or score('failed') then return false end
  if score('waiting-children') then release_if_waiting({key = key, queue = Q, id = id}, now) end
  return redis.call('ZADD', Q .. ':toril:deferred', 'NX', now, key) == 1
end

-- `id`: what follows the queue's key.
repairs['window-left'] = function()
  local owner = redis.call('GET', key)
  return owner and redis.call('PTTL', key) == -1 and redis.call('EXISTS', Q .. ':' .. owner) == 0
    and redis.call('DEL', key) == 1
end

repairs['endless'] = function()
  return redis.call('PTTL', key) == -1 and redis.call('PEXPIRE', key, LOCK_MS) == 1
end

-- `id`: the key of the parent.
repairs['deferred-left'] = function()
  return redis.call('EXISTS', id) == 0 and redis.call('ZREM', Q .. ':toril:deferred', id) == 1
end

-- Allowed on a full server; that allows the other writes too.
trim_events(Q)
return repairs[request.kind]() and 1 or 0
