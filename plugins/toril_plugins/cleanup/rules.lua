-- Parts that the cleanup plugin's chunks and scripts share; they stand before each body, inside
-- function(ctx). Per outcome <o> (completed, failed) the plugin keeps, below Q:toril:cleanup:
--   own:<o>      zset  id -> finishedOn of every job that does not follow the queue's live rule
--   at:<o>       zset  id -> ms at which it is due (own age)
--   nth:<o>      zset  id -> finish number at which it is due (own count)
--   due:<o>      zset  id -> ms at which the sweeper asks about it (undecided, or it blocks a parent)
--   rule:<o>     hash  id -> "<text of its rule>\n<its bucket, or nothing>"
--   bucket:<o>:<hash>  zset  id -> finishedOn, jobs counted together (per name or key)
--   buckets:<o>  hash  hash in use -> the key of the live rule that it counts by
-- and in meta: toril.cleanup.own.<o> (an own index exists), toril.cleanup.seq.<o> (finish number,
-- only while an own count exists), toril.cleanup.floor.<o> (below this score all are own).
-- The finished sets of BullMQ are themselves the index of the live rule, so jobs that follow it
-- cost nothing here.

local MINUTE, HOUR = 60000, 3600000

local function finished_key(outcome)
  return ctx.q .. ':' .. outcome
end

local function state(field, outcome)
  return tonumber(ctx.meta('toril.cleanup.' .. field .. '.' .. outcome) or nil)
end

local function set_state(field, outcome, value)
  ctx.set_meta('toril.cleanup.' .. field .. '.' .. outcome, value)
end

-- The queue's live rule for an outcome, as Retention.project wrote it, or nil.
local function live_rule(outcome)
  local text = ctx.meta('toril.retention.' .. outcome)
  if not text then return nil end
  local count, age, level, words, key =
    string.match(text, '^1:(%-?%d+):(%-?%d+):(%a+):%d+:([^:]*):(.*)$')
  if not count then return nil end
  return {
    count = tonumber(count), age = tonumber(age), key = key,
    text = level .. ': ' .. words,
  }
end

-- The bucket in which a job is counted under a key: a hash, since values may hold anything.
local function bucket_of(id, key, salt)
  local job = ctx.q .. ':' .. id
  local value
  if key == 'name' then
    value = redis.call('HGET', job, 'name')
  else
    local ok, data = pcall(cjson.decode, redis.call('HGET', job, 'data') or 'null')
    value = ok and data or nil
    for step in string.gmatch(string.sub(key, 6), '[^.]+') do
      value = type(value) == 'table' and value[step] or nil
    end
    if type(value) == 'table' then value = cjson.encode(value) end
  end
  return string.sub(redis.sha1hex(salt .. '\n' .. tostring(value)), 1, 16)
end

local function protect(id, outcome, finished_on, rule, bucket)
  if not state('own', outcome) then set_state('own', outcome, 1) end
  redis.call('ZADD', ctx.own('own:' .. outcome), finished_on, id)
  if rule then
    redis.call('HSET', ctx.own('rule:' .. outcome), id, rule .. '\n' .. (bucket or ''))
  end
end

-- Forget whatever was decided about a job.
local function forget(id, outcome)
  local rule = redis.call('HGET', ctx.own('rule:' .. outcome), id)
  local bucket = rule and string.match(rule, '\n(%x+)$')
  if bucket then redis.call('ZREM', ctx.own('bucket:' .. outcome .. ':' .. bucket), id) end
  for _, index in ipairs({'own:', 'at:', 'nth:', 'due:'}) do
    redis.call('ZREM', ctx.own(index .. outcome), id)
  end
  redis.call('HDEL', ctx.own('rule:' .. outcome), id)
end

-- Set a job aside until the sweeper asks about it.
local function park(id, outcome, finished_on, due)
  protect(id, outcome, finished_on)
  redis.call('ZADD', ctx.own('due:' .. outcome), due, id)
end

-- When to look again at a job that may not go now: its age once more, 1 minute to 1 hour.
local function look_again(finished_on)
  return ctx.now + math.min(math.max(ctx.now - finished_on, MINUTE), HOUR)
end

-- Whether something was said for this very job about this outcome.
local function has_own_value(id, outcome)
  local fields = redis.call('HMGET', ctx.q .. ':' .. id, 'toril', 'opts')
  if fields[1] then
    local ok, own = pcall(cjson.decode, fields[1])
    local said = ok and type(own) == 'table' and type(own.said) == 'table' and own.said.retention
    for _, each in ipairs(type(said) == 'table' and said or {}) do
      if type(each) == 'table' and type(each.v) == 'table' and each.v[outcome] then return true end
    end
  end
  local option = outcome == 'completed' and 'removeOnComplete' or 'removeOnFail'
  if fields[2] and string.find(fields[2], option, 1, true) then
    local ok, opts = pcall(cjson.decode, fields[2])
    return ok and type(opts) == 'table' and opts[option] ~= nil
  end
  return false
end

-- Remove a job that follows the live rule. One for which something else was said is set aside for
-- the sweeper instead; one that still blocks its parent is taken out of the head of the index, as a
-- slice full of such jobs would stop eviction for ever. `asked`: the plugins were asked about it in
-- this very finish. Returns true if it went.
local function remove_live(id, outcome, finished_on, rule, asked)
  if not asked and has_own_value(id, outcome) then
    park(id, outcome, finished_on, ctx.now)
    return false
  end
  local gone, why = ctx.remove(id, outcome, rule.text, finished_on)
  if not gone and (why == 'blocked' or why == 'locked') then
    park(id, outcome, finished_on, look_again(finished_on))
  end
  return gone
end

-- Remove the oldest of a bucket until `most` are left; returns false when the budget is used up.
local function trim_bucket(key, outcome, most, remove)
  local excess = redis.call('ZCARD', key) - most
  if excess <= 0 then return true end
  local oldest = redis.call('ZRANGE', key, 0, math.min(excess, ctx.budget) - 1, 'WITHSCORES')
  for i = 1, #oldest, 2 do
    redis.call('ZREM', key, oldest[i])
    remove(oldest[i], tonumber(oldest[i + 1]))
  end
  return excess <= #oldest / 2
end

local function live_bucket(id, rule)
  return bucket_of(id, rule.key, 'live ' .. rule.key)
end

-- Count a job under the live rule's key.
local function count_live(id, outcome, finished_on, rule)
  local bucket = live_bucket(id, rule)
  local key = ctx.own('bucket:' .. outcome .. ':' .. bucket)
  redis.call('ZADD', key, finished_on, id)
  redis.call('HSET', ctx.own('buckets:' .. outcome), bucket, rule.key)
  return trim_bucket(key, outcome, rule.count, function(old, score)
    remove_live(old, outcome, score, rule)
  end)
end

local function remove_own(id, outcome, finished_on)
  local stored = redis.call('HGET', ctx.own('rule:' .. outcome), id) or 'unknown'
  local gone, why = ctx.remove(id, outcome, string.match(stored, '^[^\n]*'), finished_on)
  if gone or why == 'gone' or why == 'changed' then
    forget(id, outcome)
  elseif why ~= 'budget' then
    redis.call('ZREM', ctx.own('nth:' .. outcome), id)
    redis.call('ZADD', ctx.own('at:' .. outcome), look_again(finished_on), id)
  end
  return gone
end

-- Store a decision about one job. plan = {text, count, age, key}; -1: no count, no age.
-- `seq` is the job's finish number, nil while nobody counts; returns it (made here if needed).
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
  protect(id, outcome, finished_on, text, bucket)
  if age > 0 then redis.call('ZADD', ctx.own('at:' .. outcome), finished_on + age, id) end
  if bucket then
    local set = ctx.own('bucket:' .. outcome .. ':' .. bucket)
    redis.call('ZADD', set, finished_on, id)
    trim_bucket(set, outcome, count, function(old, score) remove_own(old, outcome, score) end)
  elseif count > 0 then
    seq = seq or 0
    redis.call('ZADD', ctx.own('nth:' .. outcome), seq + count, id)
  end
  return seq
end

-- Remove jobs with an own count whose number has come.
local function evict_counted(outcome, seq, most)
  local due = redis.call('ZRANGEBYSCORE', ctx.own('nth:' .. outcome), '-inf', seq, 'LIMIT', 0, most)
  for _, id in ipairs(due) do
    local finished_on = tonumber(redis.call('ZSCORE', ctx.own('own:' .. outcome), id) or nil)
    if finished_on then
      remove_own(id, outcome, finished_on)
    else
      forget(id, outcome)
    end
  end
  return #due < most
end

-- Remove up to `most` jobs that the live rule does not keep, oldest first; raises the floor over
-- jobs with a policy of their own. `upto`: only jobs that finished until then, for the younger ones a
-- strategy may not have been asked. Returns true if none is left.
local function evict_live(outcome, rule, most, with_age, upto)
  local finished, own = finished_key(outcome), ctx.own('own:' .. outcome)
  local others = state('own', outcome) and redis.call('ZCARD', own) or 0
  local excess = 0
  if rule.count >= 0 and rule.key == '' then
    excess = redis.call('ZCARD', finished) - others - rule.count
  end
  local cutoff = with_age and rule.age >= 0 and ctx.now - rule.age or nil
  if excess <= 0 and not cutoff then return true end
  local floor = others > 0 and state('floor', outcome) or '-inf'
  local top = excess > 0 and '+inf' or cutoff
  if upto and (top == '+inf' or upto < top) then top = upto end
  local window = others > 0 and most + 1000 or most
  local oldest = redis.call(
    'ZRANGEBYSCORE', finished, floor, top, 'WITHSCORES', 'LIMIT', 0, window)
  local ids = {}
  for i = 1, #oldest, 2 do ids[#ids + 1] = oldest[i] end
  local scores = others > 0 and #ids > 0 and redis.call('ZMSCORE', own, unpack(ids)) or {}
  local looked, only_own = 0, true
  for n, id in ipairs(ids) do
    local finished_on = tonumber(oldest[2 * n])
    if scores[n] then
      if only_own and with_age then floor = finished_on end
    else
      only_own = false
      if excess <= 0 and not (cutoff and finished_on <= cutoff) then
        looked = -1
        break
      end
      if looked >= most then break end
      looked = looked + 1
      remove_live(id, outcome, finished_on, rule)
      excess = excess - 1
    end
  end
  if with_age and others > 0 and floor ~= '-inf' then set_state('floor', outcome, floor) end
  return looked < most and #ids < window
end
