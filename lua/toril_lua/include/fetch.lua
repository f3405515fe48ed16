--- @include "numbers"
--- @include "events"
--- @include "promote-due"
-- Picking up jobs.

local MAX_FETCHED_BYTES = 1048576

-- What a fetch found: ids; jobs {id, hash, id, hash, ...} as they were before, nil if none; ids
-- dropped; limited: ms until the rate limit ends; blocked: the queue lets none be taken; more:
-- there was more to take; due: when the earliest delayed job is, if that was seen.
local fetched = {ids = {}, dropped = {}, limited = 0, promoted = 0}

-- Takes up to `count` ids; the prioritised ones once nothing else waits. Returns also their scores,
-- if there are any.
local function take_ids(Q, count)
  local ids, scores = redis.call('RPOP', Q .. ':wait', count) or {}, nil
  if #ids < count then
    local missing = count - #ids
    local popped = redis.pcall('ZPOPMIN', Q .. ':prioritized', missing)
    if popped.err then
      if #ids == 0 then error(popped.err, 0) end
      return ids, nil -- those that are out of `wait` must not be lost
    end
    scores = {}
    for i = 1, #popped, 2 do
      ids[#ids + 1] = popped[i]
      scores[popped[i]] = popped[i + 1]
    end
    if #popped < 2 * missing then redis.call('DEL', Q .. ':pc') end
  end
  return ids, scores
end

-- Reads a job's hash: the hash, its size, its attempts started, whether somebody decided that it
-- must fail. Nothing if there is none, or no more of it than a foreign pickup leaves.
local function read_job(key)
  local hash = redis.pcall('HGETALL', key)
  if hash.err then return nil end
  local size, started, deferred, real = 0, 0, false, false
  for i = 1, #hash, 2 do
    local field, value = hash[i], hash[i + 1]
    size = size + #value
    if field == 'ats' then
      started = whole(value)
    elseif field == 'defa' then
      deferred = true
    elseif field == 'name' or field == 'data' or field == 'opts' then
      real = true
    end
  end
  if real then return hash, size, started, deferred end
  if #hash > 0 then redis.call('DEL', key) end
  return nil
end

-- Whoever gets the job adds what is written here to the fields that were read before.
local function pick_up(Q, id, started, now, token, lock, name)
  local key = Q .. ':' .. id
  redis.call('SET', key .. ':lock', token, 'PX', lock)
  emit(Q, 'active', 'jobId', id, 'prev', 'waiting')
  if name then
    redis.call('HSET', key, 'processedOn', now, 'ats', started + 1, 'pb', name)
  else
    redis.call('HSET', key, 'processedOn', now, 'ats', started + 1)
  end
end

local function take(Q, count, now, token, lock, name)
  local accepted, jobs, starts, size, counting = {}, {}, {}, 0, 0
  local ids, scores = take_ids(Q, count)
  for i, id in ipairs(ids) do
    if size > MAX_FETCHED_BYTES then
--- @local "put-back"
      put_back(Q, ids, i, scores)
      fetched.more = true
      break
    end
    local hash, bytes, started, deferred = read_job(Q .. ':' .. id)
    if hash then
      size = size + bytes
      local n = #accepted + 1
      accepted[n], jobs[2 * n - 1] = id, id
      jobs[2 * n], starts[n] = hash, started > 0 and started or nil
      if not deferred then counting = counting + 1 end
    else
      fetched.dropped[#fetched.dropped + 1] = id
      fetched.more = true
    end
  end
  if #accepted > 0 then
    local pushed = redis.pcall('LPUSH', Q .. ':active', unpack(accepted))
    if type(pushed) == 'table' then
--- @local "put-back"
      put_back(Q, accepted, 1, scores)
      error(pushed.err, 0)
    end
    for i, id in ipairs(accepted) do pick_up(Q, id, starts[i] or 0, now, token, lock, name) end
    fetched.ids, fetched.jobs = accepted, jobs
  end
  if #ids == count then fetched.more = true end
  return counting
end

-- meta: the fields of the queue's meta, by their names; lock: ms; name, most and span (the
-- worker's rate limit, ms): false if it says none.
local function fetch(Q, meta, now, token, lock, limit, name, most, span)
  fetched.promoted, fetched.due = promote_due(Q, now, fetched.dropped)
  if fetched.promoted == MAX_PROMOTED then fetched.more = true end
  local max = meta.max and whole(meta.max) or most
  local duration = span or (meta.duration and whole(meta.duration))
  local count, count_picked = limit, nil
  if max and duration then
--- @local "rate-limit"
    count, count_picked = math.min(count, rate_limit(Q, max)), count_for_rate_limit
  end
  if fetched.limited > 0 then return end
  if meta.paused then count = 0 end
  if meta.concurrency then
    count = math.min(count, whole(meta.concurrency) - redis.call('LLEN', Q .. ':active'))
  end
  if count <= 0 then
    fetched.blocked = true
    return
  end
  local picked = take(Q, count, now, token, lock, name)
  if count_picked then count_picked(Q, picked, duration) end
end
