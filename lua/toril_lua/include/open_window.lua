--- @include "numbers"
--- @include "events"
--- @include "discard"
--- @when removing
--- @include "keep"
--- @end
-- Deduplication of a new job: its window, which job owns that, and what becomes of the new one.
-- window = {id, ttl, extend, replace, keep, reschedule}.

-- The window belongs to the job `id` from now on.
local function own_window(key, id, window)
  local ttl = window.keep and 0 or whole(window.ttl)
  if ttl > 0 then
    redis.call('SET', key, id, 'PX', ttl)
  else
    redis.call('SET', key, id)
  end
end

local function tell_rejected(Q, owner, window, id)
  emit_capped(Q, 'deduplicated', 'jobId', owner, 'deduplicationId', window.id,
    'deduplicatedJobId', id)
end

-- While the owner runs, the last one that came is kept and added when the owner has ended.
local function keep_for_later(Q, owner, node)
  local window = node.window
  if not window.keep or not redis.call('LPOS', Q .. ':active', owner) then return false end
  local kept = Q .. ':dn:' .. window.id
  redis.call('DEL', kept)
  redis.call('HSET', kept, 'name', node.name, 'data', node.data, 'opts', node.opts, 'jid', node.id)
  if node.toril then redis.call('HSET', kept, 'toril', node.toril) end
  redis.call('PERSIST', Q .. ':de:' .. window.id)
  tell_rejected(Q, owner, window, node.id)
  return true
end

-- The new job takes the place of an owner that is delayed, unless a plugin keeps that. Returns
-- whether it did.
local function replace_owner(Q, key, owner, node)
  local window = node.window
  if not redis.call('ZSCORE', Q .. ':delayed', owner) then return false end
--- @when removing
  if is_kept(Q, owner, nil, 'replaced') then return false end
--- @end
  local links = links_of(Q, owner)
  links.window = nil -- it goes on, with another owner
  redis.call('ZREM', Q .. ':delayed', owner)
  discard(Q, owner, 'delayed', links, 'replaced')
  local ok, alone = false, false
  if links.parent then ok, alone = pcall(unlink_child, links.parent, links.key) end
  if ok and alone then release_plainly(links.parent) end
  emit(Q, 'removed', 'jobId', owner, 'prev', 'delayed')
  emit(Q, 'deduplicated', 'jobId', node.id, 'deduplicationId', window.id,
    'deduplicatedJobId', owner)
  redis.call('DEL', Q .. ':dn:' .. window.id)
  if window.extend or whole(window.ttl) == 0 then
    own_window(key, node.id, window)
  else
    redis.call('SET', key, node.id, 'KEEPTTL')
  end
  return true
end

-- A delayed owner waits as long as the rejected job would have.
local function reschedule_owner(Q, owner, node)
  if redis.call('ZREM', Q .. ':delayed', owner) == 0 then return end
  redis.call('HSET', Q .. ':' .. owner, 'delay', int(node.delay or 0))
  push_delayed(Q, owner, node.timestamp + (node.delay or 0))
  mark_delayed(Q)
end

-- The owner of the window, if the new job is not to be added; nil if it is, and owns the window.
local function rejected_by(Q, node)
  local window = node.window
  local key = Q .. ':de:' .. window.id
  local owner = redis.call('GET', key)
  local stale = owner and redis.call('PTTL', key) == -1
    and redis.call('EXISTS', Q .. ':' .. owner) == 0
  if stale then redis.call('DEL', Q .. ':dn:' .. window.id) end
  if not owner or stale then
    own_window(key, node.id, window)
    return nil
  end
  if window.replace then
    if replace_owner(Q, key, owner, node) then return nil end
    keep_for_later(Q, owner, node)
    return owner
  end
  if window.extend and whole(window.ttl) > 0 then own_window(key, owner, window) end
  if not keep_for_later(Q, owner, node) then
    tell_rejected(Q, owner, window, node.id)
    if window.reschedule then reschedule_owner(Q, owner, node) end
  end
  return owner
end
