-- What the cleanup plugin's chunks and scripts share; it stands before each body, inside
-- function(ctx). Per outcome <o> (completed, failed) the plugin keeps, below Q:toril:cleanup:
--   own:<o>      zset  id -> finishedOn of every job that does not follow the queue's live rule
--   at:<o>       zset  id -> ms at which it is due (own age)
--   nth:<o>      zset  id -> finish number at which it is due (own count)
--   due:<o>      zset  id -> ms at which the sweeper asks about it (undecided, or not to go yet)
--   rule:<o>     hash  id -> "<text of its rule>\n<its bucket, or # and its count, or nothing>"
--   bucket:<o>:<hash>  zset  id -> finishedOn, jobs counted together (per name or key)
--   buckets:<o>  hash  hash in use -> the key of the live rule that it counts by
--   over:<o>     set   hashes of such buckets that hold more than the rule keeps
-- and in meta: toril.cleanup.own.<o> (an own index exists), toril.cleanup.seq.<o> (finish number,
-- only while an own count exists), toril.cleanup.floor.<o> (below this score all are own).
-- Whoever is in at, nth, due or rule is in own. The finished sets of BullMQ are themselves the
-- index of the live rule, so jobs that follow it cost nothing here.

local function finished_key(outcome)
  return ctx.q .. ':' .. outcome
end

local function state(field, outcome)
  return tonumber(ctx.meta('toril.cleanup.' .. field .. '.' .. outcome) or nil)
end

local function set_state(field, outcome, value)
  ctx.set_meta('toril.cleanup.' .. field .. '.' .. outcome, value)
end

-- The queue's live rule for an outcome, as Retention.project wrote it, or nil. Version 1 ended with
-- the key.
local function live_rule(outcome)
  local text = ctx.meta('toril.retention.' .. outcome)
  if not text then return nil end
  local count, age, level, words, rest =
    string.match(text, '^[12]:(%-?%d+):(%-?%d+):(%a+):%d+:([^:]*):(.*)$')
  if not count then return nil end
  count = tonumber(count)
  local key, first, logs, data, tombstone = rest, -1, -1, -1, -1
  if string.sub(text, 1, 1) == '2' then
    key, first, logs, data, tombstone =
      string.match(rest, '^(.*):(%-?%d+):(%-?%d+):(%-?%d+):(%-?%d+)$')
    if not key then return nil end
  end
  return {
    count = count, age = tonumber(age), key = count > 0 and key or '', first = tonumber(first),
    logs = tonumber(logs), data = tonumber(data), tombstone = tonumber(tombstone),
    text = level .. ': ' .. words,
  }
end

-- The bucket in which a job is counted under a key: a hash, since values may hold anything. The
-- number 5, the text "5" and no value at all are different values.
local function bucket_of(id, key, salt)
  local field = key == 'name' and 'name' or 'data'
  local value = redis.pcall('HGET', ctx.q .. ':' .. id, field)
  if type(value) ~= 'string' then
    value = nil
  elseif field == 'data' then
    local ok, data = pcall(cjson.decode, value)
    value = nil
    if ok then value = data end
    for step in string.gmatch(string.sub(key, 6), '[^.]+') do
      if type(value) ~= 'table' then
        value = nil
        break
      end
      value = value[step]
    end
  end
  local text = tostring(value)
  if type(value) == 'number' then text = string.format('%.17g', value) end
  if type(value) == 'table' then
    local ok, encoded = pcall(cjson.encode, value)
    text = ok and encoded or ''
  end
  local whose = salt .. '\n' .. type(value) .. ' ' .. text
  return string.sub(redis.sha1hex(whose), 1, 16)
end

local function bucket_key(outcome, bucket)
  return ctx.own('bucket:' .. outcome .. ':' .. bucket)
end

local function live_bucket(id, rule)
  return bucket_of(id, rule.key, 'live ' .. rule.key)
end

-- The own count in what `rule:<o>` holds, or nil.
local function own_count(stored)
  return tonumber(stored and string.match(stored, '\n#(%d+)$') or nil)
end

-- Forget whatever was decided about a job.
local function forget(id, outcome)
  local rule = redis.call('HGET', ctx.own('rule:' .. outcome), id)
  local bucket = rule and string.match(rule, '\n(%x+)$')
  if bucket then redis.call('ZREM', bucket_key(outcome, bucket), id) end
  for _, index in ipairs({'own:', 'at:', 'nth:', 'due:'}) do
    redis.call('ZREM', ctx.own(index .. outcome), id)
  end
  redis.call('HDEL', ctx.own('rule:' .. outcome), id)
end

-- No longer count a job under the live rule's key, if there is one.
local function uncount_live(id, outcome)
  local rule = live_rule(outcome)
  if rule and rule.key ~= '' then
    redis.call('ZREM', bucket_key(outcome, live_bucket(id, rule)), id)
  end
end
