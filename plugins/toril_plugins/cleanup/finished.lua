-- Once per call, after jobs have finished: store what was decided about them, and apply ceilings
-- and the live rule by count. Age is the sweeper's. What most finishes ask has been done before
-- this is reached, see look.lua: this knows all cases. A job's plan is nil, or {asking, careful,
-- decision}.
-- `asking`: this process has strategies. They may have something to say about jobs that others
-- finished, so evicting older jobs is left to the sweeper, which asks first. `careful`: somebody
-- reviews or copies, so nothing goes here.

local MARGIN = 20 -- jobs with a decision of their own that are passed over
local AT_ONCE = 50 -- jobs that are too much, of which the newest may go first

local function jobs_of(outcome)
  local jobs = {}
  for _, job in ipairs(ctx.jobs) do
    if job.outcome == outcome then jobs[#jobs + 1] = job end
  end
  return jobs
end

local settled = ctx.seen.settled or {} -- outcomes of which all is done

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

-- The ids of jobs that the live count does not keep.
local function beyond_live_count(outcome, last)
  local finished, own, others = finished_key(outcome), nil, 0
  if state('own', outcome) then
    own = ctx.own('own:' .. outcome)
    others = redis.call('ZCARD', own)
  end
  if others == 0 then
    local newest_first = redis.call('ZREVRANGE', finished, last, last + AT_ONCE)
    if #newest_first <= AT_ONCE then return newest_first end
  end
  local excess = math.min(redis.call('ZCARD', finished) - others - last, ctx.budget)
  if excess <= 0 then return {} end
  local floor = others > 0 and state('floor', outcome) or '-inf'
  local window = others > 0 and 2 * excess + MARGIN or excess
  local oldest = redis.call('ZRANGEBYSCORE', finished, floor, '+inf', 'LIMIT', 0, window)
  if others == 0 or #oldest == 0 then return oldest end
  local known, ids, head = redis.call('ZMSCORE', own, unpack(oldest)), {}, 0
  while known[head + 1] do head = head + 1 end -- so many have a decision
  if head > MARGIN / 2 then set_state('floor', outcome, tonumber(known[head])) end
  for n, id in ipairs(oldest) do
    if not known[n] and #ids < excess then ids[#ids + 1] = id end
  end
  return ids
end

-- Evict by the live count. What lies behind more than a few jobs with a decision of their own is
-- left to the sweeper.
local function evict(outcome, rule)
  local ids, jobs = beyond_live_count(outcome, rule.last), {}
  if #ids == 0 then return end
  local scores = redis.call('ZMSCORE', finished_key(outcome), unpack(ids))
  for n, id in ipairs(ids) do
    jobs[n] = {
      id = id, finished_on = tonumber(scores[n]), rule = rule.rule, decision = rule, fresh = true,
    }
  end
  let_go_unspoken(jobs, outcome)
end

-- Lets go of the jobs that have just ended.
local function let_go_at_once(jobs, outcome, rule)
  local all = {}
  for n, job in ipairs(jobs) do
    all[n] = {
      id = job.id, finished_on = job.finished_on, rule = rule.rule, decision = rule,
      parent_key = job.parent_key or false, fresh = true,
    }
  end
  let_go_or_put_off(outcome, all)
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

-- Jobs about which nothing was decided follow the live rule.
local function follow_rule(jobs, outcome, rule, plan)
  local asking = plan and (plan.asking or plan.careful)
  if is_bucketed(rule) then
    count_by_key(jobs, outcome, rule, asking)
  elseif rule.last == 0 then
    let_go_at_once(jobs, outcome, rule)
  elseif rule.last and not asking then
    evict(outcome, rule)
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
  local jobs, rule = settled[outcome] and {} or jobs_of(outcome), live_rule(outcome)
  if #jobs > 0 then
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
