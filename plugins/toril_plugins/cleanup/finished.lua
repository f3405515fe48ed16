-- Once per call, after jobs have finished: store what was decided about them, and apply the live
-- rule by count. Age is the sweeper's. Without a rule and without own values: no command at all.

local function plan_of(job)
  return job.plans and job.plans.cleanup
end

-- Jobs that follow the live rule: drop what was decided about an earlier finish of theirs.
local function follow_rule(jobs, outcome, rule)
  if #jobs == 0 then return end
  if state('own', outcome) then
    local ids = {}
    for n, job in ipairs(jobs) do ids[n] = job.id end
    local known = redis.call('ZMSCORE', ctx.own('own:' .. outcome), unpack(ids))
    for n, id in ipairs(ids) do
      if known[n] then forget(id, outcome) end
    end
  end
  if not rule then return end
  for _, job in ipairs(jobs) do
    if rule.key ~= '' then
      count_live(job.id, outcome, job.finished_on, rule)
    elseif rule.count == 0 then
      remove_live(job.id, outcome, job.finished_on, rule, true)
    end
  end
  -- A plan of `true`: this process has strategies. They may have something to say about jobs that
  -- others finished, so evicting those is left to the sweeper, which asks first.
  if rule.count > 0 and plan_of(jobs[1]) ~= true and ctx.budget > 0 then
    evict_live(outcome, rule, ctx.budget, false)
  end
end

for _, outcome in ipairs({'completed', 'failed'}) do
  local seq = state('seq', outcome)
  local first_seq, following = seq, {}
  for _, job in ipairs(ctx.jobs) do
    if job.outcome == outcome and job.final then
      if seq then seq = seq + 1 end
      if job.undecided then
        park(job.id, outcome, job.finished_on, ctx.now)
      elseif type(plan_of(job)) == 'table' then
        seq = decide(job.id, outcome, job.finished_on, plan_of(job), seq)
      else
        following[#following + 1] = job
      end
    end
  end
  if seq ~= first_seq then
    set_state('seq', outcome, seq)
    evict_counted(outcome, seq, ctx.budget)
  end
  follow_rule(following, outcome, #following > 0 and live_rule(outcome) or nil)
end
