-- The rest of the chunk: something has to be written down, or looked at more closely.

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

-- Lets go what follows the live rule and is too much, except where something was said for that very
-- job: somebody else may have finished it, and the sweeper asks first.
local function let_go_unspoken(jobs, outcome)
  local free = {}
  for _, job in ipairs(jobs) do
    local said
    said, job.parent_key = has_own_value(job.id, outcome)
    if said then
      park(job.id, outcome, job.finished_on, ctx.now)
    else
      free[#free + 1] = job
    end
  end
  let_go_or_put_off(outcome, free)
end

-- What the live count did not keep, and what has not gone.
local function settle(staying, outcome)
  local said = {}
  for _, job in ipairs(staying) do
    if job.why == 'said' then
      said[#said + 1] = job
    else
      put_off(outcome, job)
    end
  end
  let_go_unspoken(said, outcome)
end

-- Counts jobs under the live rule's key, and evicts what its bucket does not keep.
local function count_by_key(jobs, outcome, rule, asking)
  local taken = {}
  for _, job in ipairs(jobs) do
    local bucket = count_live(job.id, outcome, job.finished_on, rule)
    local most = asking and 0 or ctx.budget - #taken
    local beyond = beyond_count(outcome, bucket, rule, most)
    for _, old in ipairs(beyond) do
      -- Taken out at once: the next job may fall into the same bucket.
      redis.call('ZREM', bucket_key(outcome, bucket), old.id)
      taken[#taken + 1] = old
    end
    if #beyond == 0 or #taken >= ctx.budget then note_if_over(outcome, bucket, rule) end
  end
  let_go_unspoken(taken, outcome)
  -- What stays for later counts again.
  for _, old in ipairs(taken) do
    if old.why == 'later' or old.why == 'budget' then
      redis.call('ZADD', bucket_key(outcome, old.bucket), old.finished_on, old.id)
      redis.call('SADD', ctx.own('over:' .. outcome), old.bucket)
    end
  end
end

local function follow_rule(jobs, outcome, rule, plan)
  local asking = plan and (plan.asking or plan.careful)
  if is_bucketed(rule) then
    count_by_key(jobs, outcome, rule, asking)
  elseif rule.last == 0 then
    settle(let_go_at_once(jobs, outcome, rule), outcome)
  elseif rule.last and not asking then
    settle(evict(outcome, rule), outcome)
  end
end

-- Returns the jobs about which nothing was decided: they follow the live rule.
local function store(jobs, outcome)
  local seq = state('seq', outcome)
  local first_seq, following = seq, {}
  for _, job in ipairs(jobs) do
    if seq then seq = seq + 1 end
    local plan = job.plan
    if job.undecided then
      park(job.id, outcome, job.finished_on, ctx.now)
      ctx.report({ctx.q, 'parked', outcome, 'undecided', 1})
    elseif plan and plan.decision then
      seq = decide(job.id, outcome, job.finished_on, plan.decision, seq)
    else
      following[#following + 1] = job
    end
  end
  if seq ~= first_seq then
    set_state('seq', outcome, seq)
    evict_counted(outcome, seq, ctx.budget)
  end
  return following
end

for _, outcome in ipairs(OUTCOMES) do
  local jobs, rule = jobs_of(outcome), rules[outcome]
  if left[outcome] then
    settle(left[outcome], outcome)
  elseif #jobs > 0 then
    gate.later = jobs[1].plan ~= nil and jobs[1].plan.careful or false
    forget_earlier(jobs, outcome)
    if ctx.meta('toril.holds.list') then jobs = gate.unheld(outcome, jobs) end
    local following = store(jobs, outcome)
    apply_ceiling(outcome, MARGIN, 0)
    if #following > 0 then
      lower_floor(outcome, following[1].finished_on)
      if rule then follow_rule(following, outcome, rule, following[1].plan) end
    end
  end
end
