-- What an audit and a plan read off the indexes. args = {slack = ms (negative: ahead), rules,
-- ceilings = {outcome -> as projected, or ''} if not those that hold}. Per outcome, returns
-- {finished, own, held, at, nth, parked, over, aged, excess, rule, ceiling, capped}: how many jobs
-- have finished, have a decision of their own, are held; how many of those with a decision are due
-- for longer than `slack` by time, by count, or to be asked about; how many buckets of the rule
-- hold too many; how many jobs the live rule does not keep by age (for longer than `slack`) and by
-- count; the rule in words and its `since`; the ceiling in words, and how many jobs are beyond its
-- age (capped) and its number (crowded). And
-- {missing, lease, swept, reported}: plugins that the queue requires and this process lacks; ms
-- until the lease of the sweeper ends, or -2; when a sweep came to its end, if one has; when one
-- did that removes nothing, if no other has since.
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
  local text = args.rules and args.rules[outcome] or ctx.meta('toril.retention.' .. outcome)
  local rule = parse_rule(text)
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
    found.since = tonumber(string.match(text, '^%d:%-?%d+:%-?%d+:%a+:(%d+):'))
    if rule.age then found.aged = following_up_to(outcome, late - rule.age) end
    if rule.last and not is_bucketed(rule) then
      found.excess = math.max(0, finished - own - rule.last)
    end
  end
  local ceiling = parse_rule(
    args.ceilings and args.ceilings[outcome] or ctx.meta('toril.ceiling.' .. outcome))
  if ceiling then
    -- Parked jobs are not the ceiling's until somebody has been asked about them.
    local parked = redis.call('ZCARD', ctx.own('due:' .. outcome))
    found.ceiling, found.capped, found.crowded = ceiling.rule, 0, 0
    if ceiling.age then
      local old = redis.call('ZCOUNT', finished_key(outcome), '-inf', late - ceiling.age)
      found.capped = math.max(0, old - parked)
    end
    if ceiling.last then
      found.crowded = math.max(0, finished - parked - found.held - ceiling.last)
    end
  end
  reply[outcome] = found
end
reply.missing = missing_plugins()
reply.lease = redis.call('PTTL', ctx.q .. ':toril:lease:sweep')
reply.swept = tonumber(ctx.meta('toril.cleanup.swept') or nil)
reply.reported = tonumber(ctx.meta('toril.cleanup.reported') or nil)
return reply
