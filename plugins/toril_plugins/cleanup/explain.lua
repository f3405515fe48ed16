-- What is decided about one job. args = {id}. Returns nil if it has not finished.
local id = args.id

local function score(index, outcome)
  return tonumber(redis.call('ZSCORE', ctx.own(index .. ':' .. outcome), id) or nil)
end

-- How many newer jobs are counted by the live rule.
local function newer(outcome, finished_on, rule)
  local above = '(' .. string.format('%.0f', finished_on)
  if rule.key ~= '' then
    return redis.call('ZCOUNT', bucket_key(outcome, live_bucket(id, rule)), above, '+inf')
  end
  return redis.call('ZCOUNT', finished_key(outcome), above, '+inf')
    - redis.call('ZCOUNT', ctx.own('own:' .. outcome), above, '+inf')
end

for _, outcome in ipairs({'completed', 'failed'}) do
  local finished_on = tonumber(redis.call('ZSCORE', finished_key(outcome), id) or nil)
  if finished_on then
    local told = {outcome = outcome, finished_on = finished_on}
    local rule = live_rule(outcome)
    if score('own', outcome) == finished_on then
      local stored = redis.call('HGET', ctx.own('rule:' .. outcome), id)
      told.own = true
      told.rule = stored and string.match(stored, '^(.*)\n%x*$') or ''
      told.at, told.due = score('at', outcome), score('due', outcome)
      told.nth, told.seq = score('nth', outcome), state('seq', outcome)
    elseif rule then
      told.rule, told.age, told.count = rule.text, rule.age, rule.count
      told.newer = newer(outcome, finished_on, rule)
    end
    return told
  end
end
return nil
