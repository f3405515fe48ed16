-- Once per call, after jobs have finished: store what was decided about them, and apply ceilings
-- and the live rule by count. Age is the sweeper's. Without a rule and without own values: no
-- command at all. Most calls end with this part: nothing was decided about these jobs, and the live
-- count lets go the oldest ones, which may go. A job's plan is nil, or {asking, careful, decision}.
-- `asking`: this process has strategies. They may have something to say about jobs that others
-- finished, so evicting older jobs is left to the sweeper, which asks first. `careful`: somebody
-- reviews or copies, so nothing goes here.

local MARGIN = 20 -- jobs with a decision of their own that are passed over
local AT_ONCE = 50 -- jobs that are too much, of which the newest may go first
local NONE = {}
-- Outcome -> ids that the live count does not keep, newest first, where there is nothing else to
-- see to; see look.lua.
local beyond = ctx.seen.beyond or NONE

local function jobs_of(outcome)
  local jobs = {}
  for _, job in ipairs(ctx.jobs) do
    if job.outcome == outcome then jobs[#jobs + 1] = job end
  end
  return jobs
end

-- The ids of jobs that the live count does not keep. One command if nobody has a decision of their
-- own and not many more are too much.
local function beyond_live_count(outcome, last)
  local finished, own, others = finished_key(outcome), nil, 0
  if state('own', outcome) then
    own = ctx.own('own:' .. outcome)
    others = redis.call('ZCARD', own)
  end
  if others == 0 then
    local newest_first = beyond[outcome]
      or redis.call('ZREVRANGE', finished, last, last + AT_ONCE)
    if #newest_first <= AT_ONCE then return newest_first end
  end
  local excess = math.min(redis.call('ZCARD', finished) - others - last, ctx.budget)
  if excess <= 0 then return NONE end
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
-- left to the sweeper. Returns the jobs that have not gone, each with `why`; 'said': somebody else
-- may have finished it, and something be said for it.
local function evict(outcome, rule)
  local ids, stored, plain = beyond_live_count(outcome, rule.last), {}, true
  local option = outcome == 'completed' and 'removeOnComplete' or 'removeOnFail'
  local function is_said(read)
    return read[1] or read[2] and string.find(read[2], option, 1, true)
  end
  for n = 1, #ids do
    local read = redis.pcall('HMGET', ctx.q .. ':' .. ids[n], 'toril', 'opts', 'parentKey')
    stored[n], plain = read, plain and not (read[3] or is_said(read))
  end
  if #ids == 0 or plain and let_go_plain(outcome, ids, rule) then return NONE end
  local jobs, said = {}, {}
  local scores = redis.call('ZMSCORE', finished_key(outcome), unpack(ids))
  for n, id in ipairs(ids) do
    local job = {
      id = id, finished_on = tonumber(scores[n]), rule = rule.rule, decision = rule,
      parent_key = stored[n][3] or false, fresh = true, why = is_said(stored[n]) and 'said' or nil,
    }
    table.insert(job.why and said or jobs, job)
  end
  local staying = let_go(outcome, jobs)
  for _, job in ipairs(said) do staying[#staying + 1] = job end
  return staying
end

-- Lets go of jobs of which nothing is to be kept. Returns those that have not gone.
local function let_go_at_once(jobs, outcome, rule)
  local ids, all, plain = {}, {}, true
  for n, job in ipairs(jobs) do ids[n], plain = job.id, plain and not job.parent_key end
  if plain and let_go_plain(outcome, ids, rule) then return NONE end
  for n, job in ipairs(jobs) do
    all[n] = {
      id = job.id, finished_on = job.finished_on, rule = rule.rule, decision = rule,
      parent_key = job.parent_key or false, fresh = true,
    }
  end
  return let_go(outcome, all)
end

-- Whether the jobs that ended so follow the live rule, it is a mere count or none, and nothing is
-- written down about them.
local function are_plain(outcome, rule)
  if beyond[outcome] then return true end
  if rule and (rule.key or rule.first) or ctx.planned() then return false end
  if ctx.meta('toril.ceiling.' .. outcome) or ctx.meta('toril.holds.list') then return false end
  if not state('own', outcome) then return true end
  if state('seq', outcome) then return false end
  local floor, ids = state('floor', outcome), {}
  if floor and floor > ctx.now then return false end
  for n, job in ipairs(jobs_of(outcome)) do ids[n] = job.id end
  for _, known in ipairs(redis.call('ZMSCORE', ctx.own('own:' .. outcome), unpack(ids))) do
    if known then return false end
  end
  return true
end

local rules, left, settled = {}, {}, true -- left: what a call with plain jobs could not let go
for _, outcome in ipairs(OUTCOMES) do
  if ctx.ended[outcome] > 0 then
    local rule = live_rule(outcome)
    rules[outcome] = rule
    if not are_plain(outcome, rule) then
      settled = false
    elseif rule and rule.last then
      left[outcome] = rule.last == 0 and let_go_at_once(jobs_of(outcome), outcome, rule)
        or evict(outcome, rule)
      settled = settled and #left[outcome] == 0
    else
      left[outcome] = NONE
    end
  end
end
if settled then return end
