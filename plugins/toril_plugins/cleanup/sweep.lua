-- One slice of a sweep. args = {service, token, upto = {outcome -> ms}}; upto only while plugins have
-- strategies: about jobs that finished later they have not been asked yet. Returns {more, ask}: whether another slice is needed now,
-- and the jobs about which the plugins must be asked: {id, outcome, finished_on}.
if not ctx.lease_held(args.service, args.token) then return {more = false, lost = true, ask = {}} end
local more, ask = false, {}
for _, outcome in ipairs({'completed', 'failed'}) do
  local own, budget = ctx.own('own:' .. outcome), ctx.budget

  local due = redis.call('ZRANGEBYSCORE', ctx.own('due:' .. outcome), '-inf', ctx.now, 'LIMIT', 0, 100)
  for _, id in ipairs(due) do
    local finished_on = redis.call('ZSCORE', own, id)
    if finished_on and redis.call('ZSCORE', finished_key(outcome), id) == finished_on then
      -- Not asked again soon if the asking fails.
      redis.call('ZADD', ctx.own('due:' .. outcome), ctx.now + MINUTE, id)
      ask[#ask + 1] = {id, outcome, tonumber(finished_on)}
    else
      forget(id, outcome)
    end
  end

  local at = redis.call('ZRANGEBYSCORE', ctx.own('at:' .. outcome), '-inf', ctx.now, 'LIMIT', 0, ctx.budget)
  for _, id in ipairs(at) do
    local finished_on = tonumber(redis.call('ZSCORE', own, id) or nil)
    if finished_on then
      remove_own(id, outcome, finished_on)
    else
      forget(id, outcome)
    end
  end
  if #at > 0 and ctx.budget <= 0 then more = true end

  local seq = state('seq', outcome)
  if seq then
    if ctx.budget > 0 and not evict_counted(outcome, seq, ctx.budget) then more = true end
    if redis.call('ZCARD', ctx.own('nth:' .. outcome)) == 0 then set_state('seq', outcome, nil) end
  end

  local rule = live_rule(outcome)
  if rule and ctx.budget > 0 then
    if not evict_live(outcome, rule, ctx.budget, true, args.upto and args.upto[outcome]) then more = true end
  elseif rule then
    more = true
  end
  if state('own', outcome) and redis.call('ZCARD', own) == 0 then
    set_state('own', outcome, nil)
    set_state('floor', outcome, nil)
  end
  -- One entry a slice: one for each job would push everything else out of the stream.
  if budget > ctx.budget then
    ctx.emit('toril:evicted', {outcome = outcome, count = budget - ctx.budget})
  end
end
return {more = more or #ask == 100, ask = ask}
