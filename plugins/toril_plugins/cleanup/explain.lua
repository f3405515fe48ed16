-- What is decided about one job. args = {id}. Returns nil if it has not finished.
for _, outcome in ipairs({'completed', 'failed'}) do
  local finished_on = tonumber(redis.call('ZSCORE', finished_key(outcome), args.id) or nil)
  if finished_on then
    local rule = live_rule(outcome)
    local own = tonumber(redis.call('ZSCORE', ctx.own('own:' .. outcome), args.id) or nil)
    local decided = own == finished_on
    local counted = finished_key(outcome)
    if rule and rule.key ~= '' then
      counted = ctx.own('bucket:' .. outcome .. ':' .. live_bucket(args.id, rule))
    end
    local above = '(' .. string.format('%.0f', finished_on)
    local newer = redis.call('ZCOUNT', counted, above, '+inf')
    return {
      outcome = outcome, finished_on = finished_on, own = decided,
      rule = decided and redis.call('HGET', ctx.own('rule:' .. outcome), args.id) or nil,
      at = decided and tonumber(redis.call('ZSCORE', ctx.own('at:' .. outcome), args.id) or nil) or nil,
      nth = decided and tonumber(redis.call('ZSCORE', ctx.own('nth:' .. outcome), args.id) or nil) or nil,
      due = decided and tonumber(redis.call('ZSCORE', ctx.own('due:' .. outcome), args.id) or nil) or nil,
      seq = state('seq', outcome), newer = newer,
      live = rule and rule.text or nil,
      live_count = rule and rule.count or nil, live_age = rule and rule.age or nil,
    }
  end
end
return nil
