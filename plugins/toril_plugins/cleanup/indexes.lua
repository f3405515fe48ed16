-- What is written down about jobs with a decision of their own, and about jobs counted together.

-- The value of a job by which it is counted: the number 5, the text "5" and no value at all are
-- different values.
local function value_of(id, key)
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
  return type(value) .. ' ' .. text
end

local function is_nothing(decision)
  return (decision.last == 0 or decision.age == 0) and not decision.flow
end

local function is_bucketed(decision)
  return decision.key ~= nil or decision.group ~= nil or decision.first ~= nil
end

-- The bucket in which a job is counted: a hash, since values may hold anything. `salt` keeps the
-- buckets of different rules apart.
local function bucket_of(id, decision, salt)
  local value = ''
  if decision.group then
    value = 'group ' .. decision.group
  elseif decision.key then
    value = value_of(id, decision.key)
  end
  return string.sub(redis.sha1hex(salt .. '\n' .. value), 1, 16)
end

-- Jobs of which the same was said are counted together, whichever level said it; what a strategy
-- says counts for itself.
local function own_bucket(id, decision)
  return bucket_of(id, decision, (string.gsub(decision.rule, '^%l+: ', '')))
end

local function live_bucket(id, rule)
  return bucket_of(id, rule, 'live ' .. (rule.key or ''))
end

local function bucket_key(outcome, bucket)
  return ctx.own('bucket:' .. outcome .. ':' .. bucket)
end

local function unpacked(packed)
  local ok, found = pcall(cmsgpack.unpack, packed)
  return ok and type(found) == 'table' and found or {}
end

-- What is written down as the decision about a job, or nil.
local function stored_decision(id, outcome)
  local packed = redis.call('HGET', ctx.own('rule:' .. outcome), id)
  return packed and unpacked(packed) or nil
end

-- An own count that is a number of newer jobs, or nil.
local function own_count(decision)
  return decision and not is_bucketed(decision) and decision.last or nil
end

-- Forget whatever was decided about a job.
local function forget(id, outcome)
  local decision = stored_decision(id, outcome)
  if decision and decision.bucket then
    redis.call('ZREM', bucket_key(outcome, decision.bucket), id)
  end
  for _, index in ipairs({'own:', 'at:', 'nth:', 'due:'}) do
    redis.call('ZREM', ctx.own(index .. outcome), id)
  end
  redis.call('HDEL', ctx.own('rule:' .. outcome), id)
end

-- No longer count a job under the live rule's key, if there is one.
local function uncount_live(id, outcome)
  local rule = live_rule(outcome)
  if rule and is_bucketed(rule) then
    redis.call('ZREM', bucket_key(outcome, live_bucket(id, rule)), id)
  end
end
