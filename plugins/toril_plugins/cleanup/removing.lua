-- Beside rules.lua, for the parts that decide and remove.

local MINUTE, HOUR = 60000, 3600000
local FEW = 200 -- jobs: so large a bucket is looked through before some of them go

-- `counted`: its bucket, or # and its count.
local function protect(id, outcome, finished_on, rule, counted)
  if not state('own', outcome) then set_state('own', outcome, 1) end
  redis.call('ZADD', ctx.own('own:' .. outcome), finished_on, id)
  if rule then
    redis.call('HSET', ctx.own('rule:' .. outcome), id, rule .. '\n' .. (counted or ''))
  end
end

-- Set a job aside until the sweeper asks about it. `rule`: by which it would go if it could.
local function park(id, outcome, finished_on, due, rule)
  protect(id, outcome, finished_on, rule)
  uncount_live(id, outcome)
  redis.call('ZADD', ctx.own('due:' .. outcome), due, id)
end

-- When to look again at a job that may not go now: its age once more, 1 minute to 1 hour.
local function look_again(finished_on)
  return ctx.now + math.min(math.max(ctx.now - finished_on, MINUTE), HOUR)
end

-- A job that follows the live rule has appeared: the floor is not above it. Clocks differ.
local function lower_floor(outcome, finished_on)
  local floor = state('floor', outcome)
  if floor and floor > finished_on then set_state('floor', outcome, finished_on) end
end

-- Whether something may have been said for this very job about this outcome.
local function has_own_value(id, outcome)
  local fields = redis.pcall('HMGET', ctx.q .. ':' .. id, 'toril', 'opts')
  if fields.err then return false end
  if fields[1] then
    local ok, own = pcall(cjson.decode, fields[1])
    local said = ok and type(own) == 'table' and type(own.said) == 'table' and own.said.retention
    for _, each in ipairs(type(said) == 'table' and said or {}) do
      local value = type(each) == 'table' and each.v
      if type(value) == 'table' and type(value[outcome]) == 'table' then return true end
    end
  end
  local option = outcome == 'completed' and 'removeOnComplete' or 'removeOnFail'
  if fields[2] and string.find(fields[2], option, 1, true) then
    local ok, opts = pcall(cjson.decode, fields[2])
    local kind = ok and type(opts) == 'table' and type(opts[option])
    return kind == 'boolean' or kind == 'number' or kind == 'table'
  end
  return false
end

-- Remove a job that follows the live rule. One that still blocks its parent is taken out of the
-- head of the index, as a slice full of such jobs would stop eviction for ever.
local function remove_live(id, outcome, finished_on, rule)
  local gone, why = ctx.remove(id, outcome, rule.text, finished_on)
  if not gone and (why == 'blocked' or why == 'locked') then
    park(id, outcome, finished_on, look_again(finished_on), rule.text)
  end
end

-- Remove a job with a decision of its own, which has fallen due.
local function remove_own(id, outcome, finished_on)
  local stored = redis.call('HGET', ctx.own('rule:' .. outcome), id) or 'unknown'
  local gone, why = ctx.remove(id, outcome, string.match(stored, '^[^\n]*'), finished_on)
  if gone then return end -- the chunk `removed` has forgotten it
  if why == 'gone' or why == 'changed' then
    forget(id, outcome)
  else
    redis.call('ZREM', ctx.own('nth:' .. outcome), id)
    local when = why == 'budget' and ctx.now or look_again(finished_on)
    redis.call('ZADD', ctx.own('at:' .. outcome), when, id)
  end
end

-- Take the jobs out of a small bucket that have left the finished set: nobody may have told us that
-- they were retried or removed. Returns how many are left, and {id, score, ...} if it was small.
local function purge_bucket(key, outcome)
  local size = redis.call('ZCARD', key)
  if size == 0 or size > FEW then return size end
  local found, kept, ids = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES'), {}, {}
  for i = 1, #found, 2 do ids[#ids + 1] = found[i] end
  local scores = redis.call('ZMSCORE', finished_key(outcome), unpack(ids))
  for n, id in ipairs(ids) do
    if scores[n] == found[2 * n] then
      kept[#kept + 1], kept[#kept + 2] = id, scores[n]
    else
      redis.call('ZREM', key, id)
    end
  end
  return #kept / 2, kept
end

-- The oldest of a bucket beyond `count`, at most `most`: {{id, finishedOn}, ...}.
local function beyond_count(key, outcome, count, most)
  if most <= 0 or redis.call('ZCARD', key) <= count then return {} end
  local size, found = purge_bucket(key, outcome)
  local beyond = math.min(size - count, most)
  if beyond <= 0 then return {} end
  found = found or redis.call('ZRANGE', key, 0, beyond - 1, 'WITHSCORES')
  local oldest = {}
  for n = 1, beyond do oldest[n] = {found[2 * n - 1], tonumber(found[2 * n])} end
  return oldest
end

-- Leave a bucket that holds too many to the sweeper.
local function note_if_over(bucket, outcome, rule)
  if redis.call('ZCARD', bucket_key(outcome, bucket)) > rule.count then
    redis.call('SADD', ctx.own('over:' .. outcome), bucket)
  end
end

-- Count a job under the live rule's key. Returns its bucket.
local function count_live(id, outcome, finished_on, rule)
  local bucket = live_bucket(id, rule)
  redis.call('ZADD', bucket_key(outcome, bucket), finished_on, id)
  redis.call('HSET', ctx.own('buckets:' .. outcome), bucket, rule.key)
  return bucket
end

-- Store a decision about one job, about which nothing is stored. plan = {text, count, age, key};
-- -1: no count, no age. `seq` is the job's finish number, nil while nobody counts; returns it (made
-- here if needed).
local function decide(id, outcome, finished_on, plan, seq)
  local text, count, age, key = plan[1], plan[2], plan[3], plan[4]
  if count == 0 or age == 0 then
    local gone, why = ctx.remove(id, outcome, text, finished_on)
    if not gone and why ~= 'gone' and why ~= 'changed' then
      protect(id, outcome, finished_on, text)
      local when = why == 'budget' and ctx.now or look_again(finished_on)
      redis.call('ZADD', ctx.own('at:' .. outcome), when, id)
    end
    return seq
  end
  local bucket = key ~= '' and bucket_of(id, key, text) or nil
  local counted = bucket or count > 0 and '#' .. string.format('%.0f', count) or nil
  protect(id, outcome, finished_on, text, counted)
  if age > 0 then redis.call('ZADD', ctx.own('at:' .. outcome), finished_on + age, id) end
  if bucket then
    local set = bucket_key(outcome, bucket)
    redis.call('ZADD', set, finished_on, id)
    for _, old in ipairs(beyond_count(set, outcome, count, FEW)) do
      redis.call('ZREM', set, old[1])
      remove_own(old[1], outcome, old[2])
    end
  elseif count > 0 then
    seq = seq or 0
    redis.call('ZADD', ctx.own('nth:' .. outcome), seq + count, id)
  end
  return seq
end

-- Remove jobs with an own count whose number has come. Returns whether none is left.
local function evict_counted(outcome, seq, most)
  local due = redis.call('ZRANGEBYSCORE', ctx.own('nth:' .. outcome), '-inf', seq, 'LIMIT', 0, most)
  for _, id in ipairs(due) do
    remove_own(id, outcome, tonumber(redis.call('ZSCORE', ctx.own('own:' .. outcome), id)))
  end
  return #due < most
end

-- Tell that so many jobs were removed, when no job's own finish did it. One entry a slice: one for
-- each job would push everything else out of the stream.
local function announce(outcome, count)
  if count > 0 then ctx.emit('toril:evicted', {outcome = outcome, count = count}) end
end

-- How many jobs have a decision of their own, and how many of the others the live count keeps
-- too many.
local function others_and_excess(outcome, rule)
  local others = state('own', outcome) and redis.call('ZCARD', ctx.own('own:' .. outcome)) or 0
  if rule.count < 0 or rule.key ~= '' then return others, 0 end
  return others, redis.call('ZCARD', finished_key(outcome)) - others - rule.count
end
