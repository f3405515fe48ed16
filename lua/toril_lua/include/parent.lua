--- @include "numbers"
--- @include "events"
--- @include "enqueue"
-- What a child's end does to its parent. A parent is {key, queue, id, policy}.

-- The parent named by the fields `parentKey` and `parent` of a child, or nil. The policy is in the
-- second only; where that is garbled there is none, and the queue is taken from the key.
local function parent_of(parent_key, parent_json)
  if not parent_key or parent_key == '' then return nil end
  local queue, policy
  local ok, named = pcall(cjson.decode, parent_json or 'null')
  if ok and type(named) == 'table' then
    queue = named.queueKey
    if type(queue) ~= 'string' or string.sub(parent_key, 1, #queue + 1) ~= queue .. ':' then
      queue = nil
    end
    policy = named.fpof == true and 'fpof' or named.cpof == true and 'cpof'
      or named.idof == true and 'idof' or named.rdof == true and 'rdof' or nil
  end
  queue = queue or string.match(parent_key, '^(.+):[^:]+$')
  if not queue then return nil end
  return {
    key = parent_key, queue = queue, id = string.sub(parent_key, #queue + 2), policy = policy,
  }
end

-- Lets a parent run that has been taken out of the state it was in.
local function release(parent, now)
  local stored = redis.call('HMGET', parent.key, 'priority', 'delay')
  local delay = whole(stored[2])
  if delay > 0 then
    -- Without a sequence: BullMQ gives released parents the bare due time.
    redis.call('ZADD', parent.queue .. ':delayed', (now + delay) * 4096, parent.id)
    emit(parent.queue, 'delayed', 'jobId', parent.id, 'delay', int(now + delay))
    mark_delayed(parent.queue)
  else
    enqueue(parent.queue, parent.id, whole(stored[1]), true)
    emit(parent.queue, 'waiting', 'jobId', parent.id, 'prev', 'waiting-children')
  end
end

local function release_if_waiting(parent, now)
  if redis.call('EXISTS', parent.key) == 1
    and redis.call('ZREM', parent.queue .. ':waiting-children', parent.id) == 1 then
    release(parent, now)
    return true
  end
  return false
end

local function release_if_done(parent, now)
  return redis.call('EXISTS', parent.key .. ':dependencies') == 0
    and release_if_waiting(parent, now)
end

local function child_completed(parent, child_key, value, now)
  if redis.call('SREM', parent.key .. ':dependencies', child_key) == 1 then
    redis.call('HSET', parent.key .. ':processed', child_key, value)
    release_if_done(parent, now)
  end
end

-- Leaves the reason with which the next worker has to fail the parent, and notes in its queue, and
-- in those of `noted_in`, that somebody decided so (`toril:deferred`), in case no worker comes.
local function defer_failure(parent, child_key, now, noted_in)
  redis.call('HSET', parent.key, 'defa', 'child ' .. child_key .. ' failed')
  redis.call('ZADD', parent.queue .. ':toril:deferred', now, parent.key)
  for _, queue in ipairs(noted_in) do
    if queue ~= parent.queue then
      redis.call('ZADD', queue .. ':toril:deferred', now, parent.key)
    end
  end
end

local function fail_parent(parent, child_key, now, noted_in)
  redis.call('ZADD', parent.key .. ':unsuccessful', now, child_key)
  if redis.call('EXISTS', parent.key) == 0 then return end
  if redis.call('ZREM', parent.queue .. ':waiting-children', parent.id) == 1 then
    defer_failure(parent, child_key, now, noted_in)
    release(parent, now)
  elseif redis.call('ZREM', parent.queue .. ':delayed', parent.id) == 1 then
    redis.call('HSET', parent.key, 'delay', 0)
    defer_failure(parent, child_key, now, noted_in)
    release(parent, now)
  elseif not redis.call('ZSCORE', parent.queue .. ':failed', parent.id) then
    defer_failure(parent, child_key, now, noted_in)
  end
end

-- What the final failure of a child does, by its policy. `noted_in`: the queues whose rescue shall
-- know of a parent that has to fail. Returns whether the child still keeps a living parent waiting.
local function child_failed(parent, child_key, reason, now, noted_in)
  local dependencies = parent.key .. ':dependencies'
  if not parent.policy then
    return redis.call('SISMEMBER', dependencies, child_key) == 1
      and redis.call('EXISTS', parent.key) == 1
  end
  if redis.call('SREM', dependencies, child_key) == 0 then return false end
  if parent.policy == 'fpof' then
    fail_parent(parent, child_key, now, noted_in)
  elseif parent.policy == 'cpof' then
    redis.call('HSET', parent.key .. ':failed', child_key, reason)
    release_if_waiting(parent, now)
  else
    release_if_done(parent, now)
    if parent.policy == 'idof' then
      redis.call('HSET', parent.key .. ':failed', child_key, reason)
    end
  end
  return false
end

-- Takes a child off its parent because it goes away. Returns whether the parent, waiting in
-- waiting-children, has no open child left: then the caller lets it run or removes it too.
local function unlink_child(parent, child_key)
  return redis.call('SREM', parent.key .. ':dependencies', child_key) == 1
    and redis.call('EXISTS', parent.key .. ':dependencies') == 0
    and redis.call('EXISTS', parent.key) == 1
    and redis.call('ZSCORE', parent.queue .. ':waiting-children', parent.id) ~= false
end

-- Lets a parent run that lost its last child to a removal: BullMQ ignores its priority and delay.
local function release_plainly(parent)
  redis.call('ZREM', parent.queue .. ':waiting-children', parent.id)
  enqueue(parent.queue, parent.id, 0, true)
  emit(parent.queue, 'waiting', 'jobId', parent.id, 'prev', 'waiting-children')
end
