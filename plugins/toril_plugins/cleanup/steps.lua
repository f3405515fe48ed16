-- What happens to a kept job before it goes: parts of it go (tiers), or it waits for its flow.

-- A tier: its name, the fields that go, the keys that go.
local TIERS = {
  {'logs', {stacktrace = false}, {'logs'}},
  {'data', {data = false, returnvalue = false, progress = false}, {'processed', 'failed'}},
}
local STRIPS = 100 -- jobs in one slice

-- The tiers of a decision that have come.
local function tiers_due(decision, finished_on)
  local due = {}
  for _, tier in ipairs(TIERS) do
    local age = decision[tier[1]]
    if age and finished_on + age <= ctx.now then due[#due + 1] = tier end
  end
  return due
end

-- Empties parts of jobs that nobody holds.
local function strip(outcome, jobs, tiers_of)
  if ctx.meta('toril.holds.list') then jobs = gate.unheld(outcome, jobs) end
  for _, job in ipairs(jobs) do
    for _, tier in ipairs(tiers_of(job)) do
      ctx.strip(outcome, job.id, job.finished_on, tier[2], tier[3])
    end
  end
end

-- Strips jobs with a decision of their own, and lets them wait for what comes next.
local function strip_own(outcome, jobs)
  strip(outcome, jobs, function(job) return tiers_due(job.decision, job.finished_on) end)
  for _, job in ipairs(jobs) do
    if job.why ~= 'held' then
      for _, tier in ipairs(tiers_due(job.decision, job.finished_on)) do
        job.decision[tier[1]] = nil
      end
      protect(job.id, outcome, job.finished_on, job.decision)
      local at = next_step(job.decision, job.finished_on)
      if at then
        redis.call('ZADD', ctx.own('at:' .. outcome), at, job.id)
      else
        redis.call('ZREM', ctx.own('at:' .. outcome), job.id)
      end
    end
  end
end

-- Whether what is due of a job is a tier, and not its end.
local function is_at_tier(job)
  local decision = job.decision
  if decision.over or decision.age and job.finished_on + decision.age <= ctx.now then
    return false
  end
  return #tiers_due(decision, job.finished_on) > 0
end

-- Whether a job's parent is there.
local function has_parent(id)
  local parent = redis.pcall('HGET', ctx.q .. ':' .. id, 'parentKey')
  return type(parent) == 'string' and parent ~= '' and redis.call('EXISTS', parent) == 1
end

-- Of jobs with a decision of their own that are due: strips those for which a tier has come, and
-- lets those that go with their flow wait for it. A flow whose top has come is put into `flows`, as
-- {id, outcome}. Returns those that are to go now.
local function take_steps(outcome, jobs, flows)
  local stripped, going = {}, {}
  for _, job in ipairs(jobs) do
    if not job.finished_on then
      going[#going + 1] = job
    elseif is_at_tier(job) then
      stripped[#stripped + 1] = job
    elseif not job.decision.flow then
      going[#going + 1] = job
    elseif has_parent(job.id) then
      wait_until(outcome, job, look_again(job.finished_on))
    else
      flows[#flows + 1] = {job.id, outcome}
      -- Not again soon, should nobody come to take it.
      wait_until(outcome, job, ctx.now + MINUTE)
    end
  end
  if #stripped > 0 and gate.later then
    for _, job in ipairs(stripped) do
      redis.call('ZADD', ctx.own('at:' .. outcome), ctx.now + MINUTE, job.id)
    end
  elseif #stripped > 0 then
    strip_own(outcome, stripped)
  end
  return going
end

-- A job has come under the live rule that nobody stripped by it.
local function strip_again(outcome, finished_on)
  for _, tier in ipairs(TIERS) do
    local floor = state(tier[1], outcome)
    if floor and floor >= finished_on then set_state(tier[1], outcome, finished_on - 1) end
  end
end

-- Strips jobs under the live rule by one tier, oldest first. All of them up to a floor have been
-- stripped; `place[<tier>]` counts those at the next score that have. Returns whether none is left.
local function strip_live_tier(outcome, rule, tier, place)
  local name = tier[1]
  local skip, floor = place[name] or 0, state(name, outcome)
  local from = floor and '(' .. string.format('%.0f', floor) or '-inf'
  local found = redis.call('ZRANGEBYSCORE', finished_key(outcome), from, ctx.now - rule[name],
    'WITHSCORES', 'LIMIT', skip, STRIPS)
  local ids, jobs, own = {}, {}, {}
  for i = 1, #found, 2 do ids[#ids + 1] = found[i] end
  if #ids == 0 then
    place[name] = 0
    return true
  end
  if state('own', outcome) then
    own = redis.call('ZMSCORE', ctx.own('own:' .. outcome), unpack(ids))
  end
  for n, id in ipairs(ids) do
    if not own[n] then jobs[#jobs + 1] = {id = id, finished_on = tonumber(found[2 * n])} end
  end
  strip(outcome, jobs, function() return {tier} end)
  -- The last score of a full page may go on behind it.
  local last, ties = found[#found], 0
  if #ids < STRIPS then
    set_state(name, outcome, tonumber(last))
    place[name] = 0
    return true
  end
  for n = 1, #ids do if found[2 * n] == last then ties = ties + 1 end end
  if ties == #ids then
    place[name] = skip + ties
  else
    set_state(name, outcome, tonumber(found[2 * (#ids - ties)]))
    place[name] = ties
  end
  return false
end

-- Strips jobs under the live rule. Returns whether none is left.
local function strip_live(outcome, rule, place)
  local done = true
  if gate.later then return true end
  for _, tier in ipairs(TIERS) do
    if rule[tier[1]] then done = strip_live_tier(outcome, rule, tier, place) and done end
  end
  return done
end
