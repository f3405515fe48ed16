-- One slice of a sweep. args = {service, token, buckets, upto}; buckets = {outcome -> cursor of the last
-- slice}; upto = {outcome -> ms}, only while plugins have strategies: about jobs that finished later
-- they have not been asked yet. Returns {more, ask, buckets, rules}: whether another slice is needed
-- now; the jobs about which the plugins must be asked, {id, outcome, finished_on}; the live rules.
if not ctx.lease_held(args.service, args.token) then return {more = false, lost = true, ask = {}} end

-- Go on through the buckets: lowered counts, and keys by which nobody counts any more.
local function sweep_buckets(outcome, rule)
  local registry = ctx.own('buckets:' .. outcome)
  local page = redis.call('HSCAN', registry, args.buckets[outcome] or '0', 'COUNT', 100)
  for i = 1, #page[2], 2 do
    local key = ctx.own('bucket:' .. outcome .. ':' .. page[2][i])
    if not rule or rule.key ~= page[2][i + 1] then
      redis.call('UNLINK', key)
      redis.call('HDEL', registry, page[2][i])
    elseif redis.call('ZCARD', key) == 0 then
      redis.call('HDEL', registry, page[2][i])
    elseif ctx.budget > 0 then
      trim_bucket(key, outcome, rule.count, function(old, score)
        remove_live(old, outcome, score, rule)
      end)
    end
  end
  return page[1]
end

local more, ask, buckets, rules = false, {}, {}, {}
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
  buckets[outcome] = sweep_buckets(outcome, rule)
  if buckets[outcome] ~= '0' or ctx.budget <= 0 then more = true end
  rules[outcome] = rule and rule.text or ''
  if state('own', outcome) and redis.call('ZCARD', own) == 0 then
    set_state('own', outcome, nil)
    set_state('floor', outcome, nil)
  end
  -- One entry a slice: one for each job would push everything else out of the stream.
  if budget > ctx.budget then
    ctx.emit('toril:evicted', {outcome = outcome, count = budget - ctx.budget})
  end
end
return {more = more or #ask == 100, ask = ask, buckets = buckets, rules = rules}
