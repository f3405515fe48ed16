-- What an audit and a plan read off the indexes. args = {slack = ms}. Returns, per outcome,
-- {finished, own, held, at, nth, parked, over, aged, excess, rule, ceiling, capped}: how many jobs
-- have finished, have a decision of their own, are held; how many of those with a decision are due
-- for longer than `slack` by time, by count, or to be asked about; how many buckets of the live rule
-- hold too many; how many jobs the live rule does not keep by age (for longer than `slack`) and by
-- count; the rule in words and its `since`; how many jobs are beyond the ceiling's age. And
-- {missing, lease, swept}: plugins that the queue requires and this process lacks; ms until the
-- lease of the sweeper ends, or -2; when a sweep came to its end, if one has.
local function count(index, outcome, till)
  return redis.call('ZCOUNT', ctx.own(index .. ':' .. outcome), '-inf', till)
end

-- Jobs up to a time that follow the live rule.
local function following_up_to(outcome, time)
  local own = state('own', outcome) and count('own', outcome, time) or 0
  return redis.call('ZCOUNT', finished_key(outcome), '-inf', time) - own
end

local late, reply = ctx.now - args.slack, {}
for _, outcome in ipairs(OUTCOMES) do
  local rule = live_rule(outcome)
  local finished = redis.call('ZCARD', finished_key(outcome))
  local own = state('own', outcome) and redis.call('ZCARD', ctx.own('own:' .. outcome)) or 0
  local found = {
    finished = finished, own = own,
    held = redis.call('ZCOUNT', finished_key(outcome), HELD, HELD),
    at = count('at', outcome, late), parked = count('due', outcome, late),
    nth = state('seq', outcome) and count('nth', outcome, state('seq', outcome)) or 0,
    over = redis.call('SCARD', ctx.own('over:' .. outcome)), aged = 0, excess = 0,
  }
  if rule then
    found.rule = rule.rule
    found.since = tonumber(string.match(ctx.meta('toril.retention.' .. outcome),
      '^%d:%-?%d+:%-?%d+:%a+:(%d+):'))
    if rule.age then found.aged = following_up_to(outcome, late - rule.age) end
    if rule.last and not is_bucketed(rule) then
      found.excess = math.max(0, finished - own - rule.last)
    end
  end
  local ceiling = parse_rule(ctx.meta('toril.ceiling.' .. outcome))
  if ceiling then
    found.ceiling, found.capped = ceiling.rule, 0
    if ceiling.age then
      found.capped = redis.call('ZCOUNT', finished_key(outcome), '-inf', late - ceiling.age)
    end
  end
  reply[outcome] = found
end
reply.missing = missing_plugins()
reply.lease = redis.call('PTTL', ctx.q .. ':toril:lease:sweep')
reply.swept = tonumber(ctx.meta('toril.cleanup.swept') or nil)
return reply
