--- @include "numbers"
--- @include "events"
--- @include "enqueue"
--- @include "promote"
--- @include "parent"
--- @include "deduplication"
-- Ending one attempt of an active job. Whoever calls it has trimmed the events: then the server
-- allows all writes here, also when it is full.

local OK, PARENT_BROKEN, GONE, NO_LOCK, NOT_ACTIVE, PENDING, OTHER_LOCK, FAILED_CHILDREN, CORRUPT =
  0, 1, -1, -2, -3, -4, -6, -9, -21
local NOTHING = {}
local PUT_BACK_LOCK = 30000 -- ms

-- What one call has in common. `open`: some job of the call may have open or failed children.
-- `stalled`: the stalled set has members. `left`: the id taken out of active but not yet settled.
local finishing = {now = 0, open = true, stalled = true, ended = 0, pushed = false, left = nil}
local finished_jobs = {} -- for the chunks

local function release_lock(Q, id, key)
  redis.call('DEL', key .. ':lock')
  if finishing.stalled then redis.call('SREM', Q .. ':stalled', id) end
end

-- An id whose hash is gone, or is not one: nobody can do anything with it any more.
local function forget(Q, id, key, owned)
  if owned then
    release_lock(Q, id, key)
    redis.call('LREM', Q .. ':active', 1, id)
  end
  return GONE
end

-- What stands against a completion, or OK.
local function open_children(key)
  if redis.call('EXISTS', key .. ':dependencies') == 1 then return PENDING end
  if redis.call('EXISTS', key .. ':unsuccessful') == 1 then return FAILED_CHILDREN end
  return OK
end

-- Tells the parent. A parent whose keys are garbled does not keep its child from ending.
-- Returns the code and whether the child still keeps the parent waiting.
local function tell_parent(parent, key, kind, text)
  local tell = kind == 'completed' and child_completed or child_failed
  local ok, blocks = pcall(tell, parent, key, text, finishing.now)
  if not ok then return PARENT_BROKEN, false end
  finishing.open = true
  return OK, blocks
end

local function settle(Q, id, key, kind, text, stored, more)
  local now, code, blocks = finishing.now, OK, false
  if stored[5] and close_window(Q, stored[5], id, now) then
    finishing.open, finishing.pushed = true, true
  end
  local parent = parent_of(stored[3], stored[4])
  if parent then code, blocks = tell_parent(parent, key, kind, text) end
  local made = whole(stored[2]) + 1
  redis.call('ZADD', Q .. ':' .. kind, now, id)
  if kind == 'completed' then
    redis.call('HSET', key, 'returnvalue', text, 'finishedOn', now, 'atm', made)
    emit(Q, 'completed', 'jobId', id, 'returnvalue', text, 'prev', 'active')
  else
    redis.call('HSET', key, 'failedReason', text, 'finishedOn', now, 'atm', made)
    if more.stack then redis.call('HSET', key, 'stacktrace', more.stack) end
    if redis.call('HDEL', key, 'defa') == 1 then redis.call('ZREM', Q .. ':toril:deferred', id) end
    emit(Q, 'failed', 'jobId', id, 'failedReason', text, 'prev', 'active')
    if made >= (more.attempts or 0) then
      emit(Q, 'retries-exhausted', 'jobId', id, 'attemptsMade', made)
    end
  end
  finishing.ended = finishing.ended + 1
--- @when finished, finished_batch
  finished_jobs[#finished_jobs + 1] = {
    id = id, key = key, outcome = kind, cause = more.cause or 'processor', final = true,
    finished_on = now, previous = tonumber(stored[7]), parent_key = stored[3] or nil,
    blocks_parent = blocks, name = stored[1] or '', undecided = more.undecided or false,
    plans = more.plans,
  }
--- @end
  return code
end

-- Another attempt, at once or later, or none at all: the job goes back to where it came from.
local function put_off(Q, id, key, kind, text, stored, more)
  local priority, now = whole(stored[6]), finishing.now
  if text then redis.call('HSET', key, 'failedReason', text) end
  if more.stack then redis.call('HSET', key, 'stacktrace', more.stack) end
  if kind ~= 'wait' and not more.skip then
    redis.call('HSET', key, 'atm', whole(stored[2]) + 1)
  end
  if kind == 'delay' then
    redis.call('HSET', key, 'delay', int(more.delay))
    push_delayed(Q, id, now + more.delay)
    mark_delayed(Q)
    return OK
  end
  if kind == 'retry' then
    push(Q, id, priority, more.lifo)
  else
    push_front(Q, id, priority)
  end
  emit_capped(Q, 'waiting', 'jobId', id, 'prev', 'active')
  finishing.pushed = true
  return OK
end

-- item = {id, token, kind, text, from the head of active, more}; `lock` is the lock's value.
local function end_attempt(Q, item, lock)
  local id, token, kind, text, more = item[1], item[2], item[3], item[4], item[6] or NOTHING
  local key = Q .. ':' .. id
  local stored = redis.pcall('HMGET', key,
    'name', 'atm', 'parentKey', 'parent', 'deid', 'priority', 'finishedOn')
  if stored.err or (not stored[1] and redis.call('EXISTS', key) == 0) then
    return forget(Q, id, key, lock == token)
  end
  if kind == 'completed' and finishing.open then
    local code = open_children(key)
    if code ~= OK then return code end
  end
  if not lock then return NO_LOCK end
  if lock ~= token then return OTHER_LOCK end
  release_lock(Q, id, key)
  if redis.call('LREM', Q .. ':active', item[5] and 1 or -1, id) == 0 then return NOT_ACTIVE end
  finishing.left = id
  local settled = (kind == 'completed' or kind == 'failed') and settle or put_off
  local code = settled(Q, id, key, kind, text, stored, more)
  finishing.left = nil
  return code
end

-- Ends one attempt; returns a code and never raises. If it broke in the middle the job is active
-- and locked again, as if nothing had been tried.
local function try_to_end(Q, item, lock)
  local ok, code = pcall(end_attempt, Q, item, lock)
  if ok then return code end
  local id = item[1]
  if finishing.left == id then
    finishing.left = nil
    for _, set in ipairs({'completed', 'failed', 'delayed', 'prioritized'}) do
      redis.pcall('ZREM', Q .. ':' .. set, id)
    end
    redis.pcall('LREM', Q .. ':wait', 1, id)
    redis.pcall('LPUSH', Q .. ':active', id)
    redis.pcall('SET', Q .. ':' .. id .. ':lock', item[2], 'PX', PUT_BACK_LOCK)
  end
  return CORRUPT
end

-- Ends the attempts in `items`, in that order. Returns one code for each; ids without a hash that
-- were met on the way are appended to `dropped`.
local function end_attempts(Q, items, now, dropped)
  finishing.now = now
  local locks, children, retries = {}, {}, false
  for i, item in ipairs(items) do
    local key = Q .. ':' .. item[1]
    locks[i] = key .. ':lock'
    if item[3] == 'completed' then
      children[#children + 1] = key .. ':dependencies'
      children[#children + 1] = key .. ':unsuccessful'
    elseif item[3] == 'retry' then
      retries = true
    end
  end
  locks = redis.call('MGET', unpack(locks))
  finishing.open = #children > 0 and redis.call('EXISTS', unpack(children)) > 0
  finishing.stalled = redis.call('EXISTS', Q .. ':stalled') == 1
  if retries and promote_due(Q, now, dropped) > 0 then finishing.pushed = true end
  local codes = {}
  for i, item in ipairs(items) do codes[i] = try_to_end(Q, item, locks[i]) end
  return codes
end
