-- Once per call, after jobs have finished: store what was decided about them, and apply the live
-- rule by count. Age is the sweeper's. Without a rule and without own values: no command at all.

local MARGIN = 50 -- jobs with a decision of their own that are passed over

local function plan_of(job)
  return job.plans and job.plans.cleanup
end

-- What was decided about an earlier finish of these jobs no longer holds.
local function forget_earlier(jobs, outcome)
  if not state('own', outcome) then return end
  local ids = {}
  for n, job in ipairs(jobs) do ids[n] = job.id end
  local known = redis.call('ZMSCORE', ctx.own('own:' .. outcome), unpack(ids))
  for n, id in ipairs(ids) do
    if known[n] then forget(id, outcome) end
  end
end

-- A job that the live rule does not keep goes. But somebody else may have finished it, for whom
-- something was said: then the sweeper asks first.
local function take(id, outcome, finished_on, rule)
  if has_own_value(id, outcome) then
    park(id, outcome, finished_on, ctx.now)
  else
    remove_live(id, outcome, finished_on, rule)
  end
end

-- Evict by the live count. What lies behind more than a few jobs with a decision of their own is
-- left to the sweeper.
local function evict(outcome, rule)
  local others, excess = others_and_excess(outcome, rule)
  excess = math.min(excess, ctx.budget)
  if excess <= 0 then return end
  local floor, window = '-inf', excess
  if others > 0 then floor, window = state('floor', outcome) or '-inf', excess + MARGIN end
  local oldest = redis.call(
    'ZRANGEBYSCORE', finished_key(outcome), floor, '+inf', 'WITHSCORES', 'LIMIT', 0, window)
  local ids, own = {}, {}
  for i = 1, #oldest, 2 do ids[#ids + 1] = oldest[i] end
  if others > 0 and #ids > 0 then
    own = redis.call('ZMSCORE', ctx.own('own:' .. outcome), unpack(ids))
  end
  for n, id in ipairs(ids) do
    if excess > 0 and not own[n] then
      take(id, outcome, tonumber(oldest[2 * n]), rule)
      excess = excess - 1
    end
  end
end

-- `asking`: this process has strategies. They may have something to say about jobs that others
-- finished, so evicting older jobs is left to the sweeper, which asks first.
local function follow_rule(jobs, outcome, rule, asking)
  if rule.key == '' then
    if rule.count == 0 then
      for _, job in ipairs(jobs) do remove_live(job.id, outcome, job.finished_on, rule) end
    elseif not asking then
      evict(outcome, rule)
    end
    return
  end
  for _, job in ipairs(jobs) do
    local bucket = count_live(job.id, outcome, job.finished_on, rule)
    if not asking then
      local key = bucket_key(outcome, bucket)
      for _, old in ipairs(beyond_count(key, outcome, rule.count, ctx.budget)) do
        redis.call('ZREM', key, old[1])
        take(old[1], outcome, old[2], rule)
      end
    end
    if asking or ctx.budget <= 0 then note_if_over(bucket, outcome, rule) end
  end
end

for _, outcome in ipairs({'completed', 'failed'}) do
  local ended, following = {}, {}
  for _, job in ipairs(ctx.jobs) do
    if job.outcome == outcome and job.final then ended[#ended + 1] = job end
  end
  if #ended > 0 then
    forget_earlier(ended, outcome)
    local seq = state('seq', outcome)
    local first_seq = seq
    for _, job in ipairs(ended) do
      if seq then seq = seq + 1 end
      if job.undecided then
        park(job.id, outcome, job.finished_on, ctx.now)
      elseif type(plan_of(job)) == 'table' then
        seq = decide(job.id, outcome, job.finished_on, plan_of(job), seq)
      else
        following[#following + 1] = job
      end
    end
    if seq ~= first_seq then
      set_state('seq', outcome, seq)
      evict_counted(outcome, seq, ctx.budget)
    end
    if #following > 0 then
      lower_floor(outcome, following[1].finished_on)
      local rule = live_rule(outcome)
      if rule then follow_rule(following, outcome, rule, plan_of(following[1]) == true) end
    end
  end
end
