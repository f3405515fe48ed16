--- @include "numbers"
--- @include "events"
--- @include "promote-due"
--- @include "effects"
-- Ending one attempt of an active job. Whoever calls it has trimmed the events: then the server
-- allows all writes here, also when it is full. The codes are those in the header of `tick`.

local NOTHING = {}
local LONG_ACTIVE = 1000 -- jobs

-- What one call has in common. `open`: some job of the call may have open or failed children.
-- `long`: active is so long that both of its ends are looked at before all of it. `tail`: the end
-- of active where the oldest are, as far as it has not left. `cut`: so many have left there, and
-- are still to be cut off. `entered`: outcome -> {time, id, ...}, to be added to its set.
-- `unlocked`: the ids whose locks are to go. `ended`: how many jobs completed or failed.
-- `failed`: how many of them failed. `planned`: a plugin planned something for one, or could not
-- (`undecided`).
-- `pushed`: something was made ready to run. `left`: the id that is out of active, not yet settled.
-- `finder`: another queue whose rescue shall know of parents that have to fail now. `values`:
-- whether the events tell results and reasons. `held`: a job asked for a rate limit. `tell` and
-- `put_off`: functions that few calls need.
local finishing = {
  now = 0, open = true, tail = NOTHING, cut = 0, entered = {}, unlocked = {}, ended = 0, failed = 0,
  values = true,
}
--- @when finished, finished_batch
-- The item and the stored fields of each job that ended, one behind the other; who asks for them as
-- jobs gets those (`seam-finish`). The ids of those that keep their parents waiting.
local finished_jobs, finished_blocking = {}, NOTHING
--- @end

-- Does at once what has been put off, to be done for many jobs by one command. None of it can fail.
local function catch_up(Q)
  if finishing.cut > 0 then
    redis.call('LTRIM', Q .. ':active', 0, -1 - finishing.cut)
    finishing.cut = 0
  end
  for outcome, entries in pairs(finishing.entered) do
    if #entries > 0 then
      redis.call('ZADD', Q .. ':' .. outcome, unpack(entries))
      finishing.entered[outcome] = NOTHING
    end
  end
end

local function release_locks(Q, stalled)
  local ids, locks = finishing.unlocked, {}
  if #ids == 0 then return end
  for i, id in ipairs(ids) do locks[i] = Q .. ':' .. id .. ':lock' end
  redis.call('DEL', unpack(locks))
  if stalled then redis.pcall('SREM', Q .. ':stalled', unpack(ids)) end
end

local function settle(Q, item, key, stored)
  local id, kind, text, more = item[1], item[3], item[4], item[6] or NOTHING
  local now, code, blocks = finishing.now, 0, false
  if stored[3] or stored[4] then
    -- What follows looks at the state of other jobs of this queue.
    if stored[4] or string.find(stored[3], Q .. ':', 1, true) == 1 then catch_up(Q) end
    if not finishing.tell then
--- @local "relations"
      finishing.tell = tell_relations
    end
    code, blocks = finishing.tell(Q, id, key, kind, text, stored)
  end
  local made, entries = whole(stored[2]) + 1, finishing.entered[kind]
  if stored[5] then redis.call('ZREM', Q .. ':toril:deferred', key) end
  -- The first goes into the set alone: that proves that it is one.
  if not entries then redis.call('ZADD', Q .. ':' .. kind, now, id) end
  if kind == 'completed' then
    redis.call('HSET', key, 'returnvalue', text, 'finishedOn', now, 'atm', made)
    emit_value(Q, finishing.values, 'completed', id, 'returnvalue', text, 'prev', 'active')
  else
    redis.call('HSET', key, 'failedReason', text, 'finishedOn', now, 'atm', made)
    if more.stack then redis.call('HSET', key, 'stacktrace', more.stack) end
    if stored[5] then redis.call('HDEL', key, 'defa') end
    emit_value(Q, finishing.values, 'failed', id, 'failedReason', text, 'prev', 'active')
    if made >= (more.attempts or 0) then
      emit(Q, 'retries-exhausted', 'jobId', id, 'attemptsMade', made)
    end
    finishing.failed = finishing.failed + 1
  end
--- @when finished, finished_batch
  finished_jobs[#finished_jobs + 1] = item
  finished_jobs[#finished_jobs + 1] = stored
  if blocks then
    if finished_blocking == NOTHING then finished_blocking = {} end
    finished_blocking[id] = true
  end
  if more.plans or more.undecided then finishing.planned = true end
  if more.undecided then finishing.undecided = true end
--- @end
  finishing.ended = finishing.ended + 1
  if not entries then
    finishing.entered[kind] = NOTHING
  else
    if entries == NOTHING then
      entries = {}
      finishing.entered[kind] = entries
    end
    entries[#entries + 1] = now
    entries[#entries + 1] = id
  end
  return code
end

-- Takes a job out of active. Returns whether it was there.
local function leave_active(Q, id, from_head)
  local tail = finishing.tail
  if tail[#tail] == id then
    tail[#tail], finishing.cut = nil, finishing.cut + 1
    return true
  end
  if finishing.long then
--- @local "lists"
    return take_from_list(Q .. ':active', id)
  end
  return redis.call('LREM', Q .. ':active', from_head and 1 or -1, id) > 0
end

-- Ends one attempt and returns a code. item = {id, token, kind, text, from the head of active,
-- more}; `lock` is the lock's value.
local function end_attempt(Q, item, lock)
  local id, token, kind = item[1], item[2], item[3]
  local key, unlocked = Q .. ':' .. id, finishing.unlocked
  local stored = redis.pcall('HMGET', key, 'name', 'atm', 'parentKey', 'deid', 'defa'
--- @when finished, finished_batch
    , 'finishedOn'
--- @end
  )
  if stored.err or (not stored[1] and redis.call('EXISTS', key) == 0) then
    -- Nobody can do anything with such an id any more.
    if lock == token then
      redis.call('LREM', Q .. ':active', 1, id)
      unlocked[#unlocked + 1] = id
    end
    return -1
  end
  if kind == 'completed' and finishing.open then
    if redis.call('EXISTS', key .. ':dependencies') == 1 then return -4 end
    if redis.call('EXISTS', key .. ':unsuccessful') == 1 then return -9 end
  end
  if not lock then return -2 end
  if lock ~= token then return -6 end
  local code = -3
  if leave_active(Q, id, item[5]) then
    finishing.left = id
    if kind == 'completed' or kind == 'failed' then
      code = settle(Q, item, key, stored)
    else
      if not finishing.put_off then
--- @local "put-off"
        finishing.put_off = put_off
      end
      code = finishing.put_off(Q, item, key, stored)
    end
    finishing.left = nil
  end
  unlocked[#unlocked + 1] = id
  return code
end

-- Ends the attempts in `items`, in that order. Returns one code for each, and never raises; ids
-- without a hash that were met on the way are appended to `dropped`.
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
  local stalled = #items == 1 or redis.call('EXISTS', Q .. ':stalled') == 1
  if #items > 1 then
    -- The tail of active, as far down as so many jobs reach.
    local tail = redis.pcall('LRANGE', Q .. ':active', -#items, -1)
    if not tail.err then
      finishing.tail, finishing.long = tail, redis.call('LLEN', Q .. ':active') > LONG_ACTIVE
    end
  end
  if retries and promote_due(Q, now, dropped) > 0 then finishing.pushed = true end
  local codes, i = {}, 0
  local function go_on()
    while i < #items do
      i = i + 1
      codes[i] = end_attempt(Q, items[i], locks[i])
    end
  end
  while not pcall(go_on) do
--- @local "undo"
    codes[i] = -23
    undo(Q, items[i][1])
  end
  catch_up(Q)
  release_locks(Q, stalled)
  return codes
end
