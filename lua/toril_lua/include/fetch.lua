--- @include "numbers"
--- @include "events"
--- @include "promote-due"
-- Picking up jobs. wanted = {token, lock (ms), limit, name, max, duration}.

local MAX_FETCHED_BYTES = 1048576

-- What a fetch found: jobs {{id, hash}, ...}, ids dropped, limited: ms until the rate limit ends,
-- more: there was more to take.
local fetched = {jobs = {}, dropped = {}, limited = 0, blocked = false, more = false, promoted = 0}

-- How many jobs the rate limit lets through now; sets `limited` if none.
local function rate_limit(Q, max, duration)
  if not max or not duration then return math.huge end
  local key = Q .. ':limiter'
  local counted = whole(redis.call('GET', key))
  if counted >= max then
    local left = redis.call('PTTL', key)
    if left > 0 then
      fetched.limited = left
      return 0
    end
    redis.call('DEL', key) -- it has run out, or has no end at all
    counted = 0
  end
  return max - counted
end

local function count_for_rate_limit(Q, picked, duration)
  if picked == 0 then return end
  local key = Q .. ':limiter'
  local counted = redis.call('INCRBY', key, picked)
  if counted == picked or redis.call('PTTL', key) == -1 then
    redis.call('PEXPIRE', key, math.floor(duration))
  end
end

-- Takes up to `count` ids; the prioritised ones once nothing else waits. Scores go to `scores`.
local function take_ids(Q, count, scores)
  local ids = redis.call('RPOP', Q .. ':wait', count) or {}
  if #ids < count then
    local missing = count - #ids
    local popped = redis.pcall('ZPOPMIN', Q .. ':prioritized', missing)
    if popped.err then
      if #ids == 0 then error(popped.err, 0) end
      return ids -- those that are out of `wait` must not be lost
    end
    for i = 1, #popped, 2 do
      ids[#ids + 1] = popped[i]
      scores[popped[i]] = popped[i + 1]
    end
    if #popped < 2 * missing then redis.call('DEL', Q .. ':pc') end
  end
  return ids
end

-- Puts ids from number `first` on back to where they were taken.
local function put_back(Q, ids, first, scores)
  for i = #ids, first, -1 do
    if scores[ids[i]] then
      redis.call('ZADD', Q .. ':prioritized', scores[ids[i]], ids[i])
    else
      redis.call('RPUSH', Q .. ':wait', ids[i])
    end
  end
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

local function pick_up(Q, id, hash, started, wanted, at)
  local key = Q .. ':' .. id
  redis.call('SET', key .. ':lock', wanted.token, 'PX', wanted.lock)
  emit(Q, 'active', 'jobId', id, 'prev', 'waiting')
  local count, end_of_hash = string.format('%d', started + 1), #hash
  if wanted.name then
    redis.call('HSET', key, 'processedOn', at, 'ats', count, 'pb', wanted.name)
    hash[end_of_hash + 5], hash[end_of_hash + 6] = 'pb', wanted.name
  else
    redis.call('HSET', key, 'processedOn', at, 'ats', count)
  end
  -- The later of two entries counts for whoever reads the reply.
  hash[end_of_hash + 1], hash[end_of_hash + 2] = 'processedOn', at
  hash[end_of_hash + 3], hash[end_of_hash + 4] = 'ats', count
  fetched.jobs[#fetched.jobs + 1] = {id, hash}
end

local function take(Q, count, wanted, now)
  local scores, accepted, read, size, counting = {}, {}, {}, 0, 0
  local ids = take_ids(Q, count, scores)
  for i, id in ipairs(ids) do
    if size > MAX_FETCHED_BYTES then
      put_back(Q, ids, i, scores)
      fetched.more = true
      break
    end
    local hash, bytes, started, deferred = read_job(Q .. ':' .. id)
    if hash then
      size = size + bytes
      accepted[#accepted + 1] = id
      read[#read + 1] = {hash, started}
      if not deferred then counting = counting + 1 end
    else
      fetched.dropped[#fetched.dropped + 1] = id
      fetched.more = true
    end
  end
  if #accepted > 0 then
    local pushed = redis.pcall('LPUSH', Q .. ':active', unpack(accepted))
    if type(pushed) == 'table' then
      put_back(Q, accepted, 1, scores)
      error(pushed.err, 0)
    end
    local at = int(now)
    for i, id in ipairs(accepted) do pick_up(Q, id, read[i][1], read[i][2], wanted, at) end
  end
  if #ids == count then fetched.more = true end
  return counting
end

-- meta = {paused, concurrency, max, duration, ...} of the queue.
local function fetch(Q, wanted, meta, now)
  fetched.promoted = promote_due(Q, now, fetched.dropped)
  if fetched.promoted == MAX_PROMOTED then fetched.more = true end
  local max = meta[3] and whole(meta[3]) or wanted.max
  local duration = wanted.duration or (meta[4] and whole(meta[4]))
  local count = math.min(wanted.limit, rate_limit(Q, max, duration))
  if fetched.limited > 0 then return end
  if meta[1] then count = 0 end
  if meta[2] then
    count = math.min(count, whole(meta[2]) - redis.call('LLEN', Q .. ':active'))
  end
  if count <= 0 then
    fetched.blocked = true
    return
  end
  local picked = take(Q, count, wanted, now)
  if max and duration then count_for_rate_limit(Q, picked, duration) end
end

-- When the earliest delayed job is due, in ms; -1 if there is none.
local function next_due(Q)
  local first = redis.call('ZRANGE', Q .. ':delayed', 0, 0, 'WITHSCORES')
  return first[2] and math.floor(tonumber(first[2]) / 4096) or -1
end
