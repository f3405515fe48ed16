-- Do what came out for the jobs that were handed over. args = {service, token, jobs = {{id,
-- outcome, finished_on, rule, own, verdict}…}}. verdict = {go = true}; {until_ms, why}: it stays
-- until then; {decision, data = JSON text or nil}: it is decided about anew, with other data. A job
-- that was retried, removed, finished or decided about again in between is left alone. Returns
-- {gone = ids}. No service and token: jobs of a flow whose top is in another queue.
if args.token and not ctx.lease_held(args.service, args.token) then return {lost = true} end

-- What is put off comes again after a while, whatever its rule says.
local PAUSE = MINUTE

local function is_due_as_before(job)
  if job.ceiling then
    local ceiling = parse_rule(ctx.meta('toril.ceiling.' .. job.outcome))
    return ceiling and CEILING .. ceiling.rule == job.rule
  end
  if job.own then return stored_decision(job.id, job.outcome) ~= nil end
  local rule = live_rule(job.outcome)
  return rule and rule.rule == job.rule
end

local function postpone(job, verdict)
  ctx.report({ctx.q, 'parked', job.outcome, 'postponed', 1})
  if job.ceiling then
    forget(job.id, job.outcome)
    park(job.id, job.outcome, job.finished_on, verdict.until_ms,
      {rule = job.rule, why = verdict.why})
  elseif job.own then
    job.decision.why = verdict.why
    wait_until(job.outcome, job, verdict.until_ms)
  else
    park(job.id, job.outcome, job.finished_on, verdict.until_ms,
      {rule = job.rule, why = verdict.why})
  end
end

local function rewrite(job, verdict)
  local outcome, decision = job.outcome, verdict.decision
  local fields = verdict.data and {data = verdict.data}
  if fields and not ctx.strip(outcome, job.id, job.finished_on, fields, {}) then return end
  forget(job.id, outcome)
  uncount_live(job.id, outcome)
  local over = decision.age and job.finished_on + decision.age <= ctx.now
  if is_nothing(decision) or over then
    decision.since = ctx.now
    job.decision = decision
    wait_until(outcome, job, ctx.now + PAUSE)
  else
    local seq = state('seq', outcome)
    local after = decide(job.id, outcome, job.finished_on, decision, seq)
    if after ~= seq then set_state('seq', outcome, after) end
  end
end

local going, gone = {completed = {}, failed = {}}, {}
for _, each in ipairs(args.jobs) do
  local job, verdict = {unsure = true}, each[6]
  job.id, job.outcome, job.finished_on, job.rule, job.own = unpack(each, 1, 5)
  local score = redis.call('ZSCORE', finished_key(job.outcome), job.id)
  job.ceiling = string.find(job.rule, CEILING, 1, true) == 1
  if score and tonumber(score) == job.finished_on and is_due_as_before(job) then
    job.decision = job.own and stored_decision(job.id, job.outcome)
      or parse_rule(ctx.meta('toril.retention.' .. job.outcome)) or {}
    if verdict.go then
      table.insert(going[job.outcome], job)
    elseif verdict.decision then
      rewrite(job, verdict)
    else
      postpone(job, verdict)
    end
  end
end
for _, outcome in ipairs(OUTCOMES) do
  let_go_or_put_off(outcome, going[outcome])
  local count = 0
  for _, job in ipairs(going[outcome]) do
    if not job.why then
      gone[#gone + 1], count = job.id, count + 1
    end
  end
  announce(outcome, count)
end
return {gone = gone}
