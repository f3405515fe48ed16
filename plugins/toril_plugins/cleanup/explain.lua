-- What is decided about one job. args = {id}. Returns {id, outcome, …}, no outcome if it has not
-- finished; held: the holds that it matches; missing: required plugins that this process lacks.
local id = args.id

local function score(index, outcome)
  return tonumber(redis.call('ZSCORE', ctx.own(index .. ':' .. outcome), id) or nil)
end

local function count_newer(key, finished_on)
  return redis.call('ZCOUNT', key, '(' .. string.format('%.0f', finished_on), '(' .. HELD)
end

-- How many newer jobs are counted by the live rule.
local function newer(outcome, finished_on, rule)
  if is_bucketed(rule) then
    return count_newer(bucket_key(outcome, live_bucket(id, rule)), finished_on)
  end
  return count_newer(finished_key(outcome), finished_on)
    - count_newer(ctx.own('own:' .. outcome), finished_on)
end

-- After how many more jobs an own count is reached, or nil.
local function left_of(outcome, finished_on, decision)
  local nth = score('nth', outcome)
  if not nth then return nil end
  local left, count = nth - (state('seq', outcome) or 0), own_count(decision)
  if not count then return left end
  return math.min(left, count - count_newer(finished_key(outcome), finished_on))
end

-- Whether a living parent waits for the job.
local function is_awaited()
  local key = ctx.q .. ':' .. id
  local parent = redis.call('HGET', key, 'parentKey')
  return parent and redis.call('EXISTS', parent) == 1
    and redis.call('SISMEMBER', parent .. ':dependencies', key) == 1
end

local told = {id = id, held = held_by(id), missing = missing_plugins()}
for _, outcome in ipairs(OUTCOMES) do
  local finished_on = tonumber(redis.call('ZSCORE', finished_key(outcome), id) or nil)
  if finished_on then
    told.outcome, told.awaited = outcome, is_awaited()
    local rule = live_rule(outcome)
    if finished_on == HELD then
      told.out_of_reach = true
    elseif score('own', outcome) == finished_on then
      local decision = stored_decision(id, outcome) or {}
      told.rule, told.asked, told.why = decision.rule or '', decision.asked, decision.why
      told.note = decision.note
      told.at = score('at', outcome) or score('due', outcome)
      told.left = left_of(outcome, finished_on, decision)
    elseif rule then
      told.rule = rule.rule
      told.at = rule.age and finished_on + rule.age or nil
      told.left = rule.last and rule.last - newer(outcome, finished_on, rule) or nil
    end
    return told
  end
end
return told
