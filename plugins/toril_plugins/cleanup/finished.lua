-- Once per call, after jobs have finished: store what was decided about them, and apply ceilings
-- and the live rule by count. Age is the sweeper's. Without a rule and without own values: no
-- command at all. Most calls end with this part: nothing was decided about these jobs, and the live
-- count lets go the oldest ones, which may go. A job's plan is nil, or {asking, careful, decision}.
-- `asking`: this process has strategies. They may have something to say about jobs that others
-- finished, so evicting older jobs is left to the sweeper, which asks first. `careful`: somebody
-- reviews or copies, so nothing goes here.

local MARGIN = 20 -- jobs with a decision of their own that are passed over
local NONE = {}

-- What the live count does not keep: how many, at most; {id, score, ...}; of each, whether it has a
-- decision of its own. One command if nobody has one and not many more are too much.
local function beyond_live_count(outcome, last)
  local finished, own, others = finished_key(outcome), nil, 0
  if state('own', outcome) then
    own = ctx.own('own:' .. outcome)
    others = redis.call('ZCARD', own)
  end
  if others == 0 then
    local newest_first = beyond[outcome] or redis.call(
      'ZREVRANGE', finished, last, last + AT_ONCE, 'WITHSCORES')
    local count = #newest_first / 2
    if count <= AT_ONCE then return count, newest_first, NONE end
  end
  local excess = math.min(redis.call('ZCARD', finished) - others - last, ctx.budget)
  if excess <= 0 then return 0 end
  local floor = others > 0 and state('floor', outcome) or '-inf'
  local window = others > 0 and 2 * excess + MARGIN or excess
  local oldest = redis.call(
    'ZRANGEBYSCORE', finished, floor, '+inf', 'WITHSCORES', 'LIMIT', 0, window)
  if others == 0 or #oldest == 0 then return excess, oldest, NONE end
  local ids, head = {}, 0 -- head: so many have a decision
  for i = 1, #oldest, 2 do ids[#ids + 1] = oldest[i] end
  local known = redis.call('ZMSCORE', own, unpack(ids))
  while known[head + 1] do head = head + 1 end
  if head > MARGIN / 2 then set_state('floor', outcome, tonumber(oldest[2 * head])) end
  return excess, oldest, known
end

-- Evict by the live count. What lies behind more than a few jobs with a decision of their own is
-- left to the sweeper. Returns the jobs that have not gone, each with `why`; 'said': somebody else
-- may have finished it, and something be said for it.
local function evict(outcome, rule)
  local excess, oldest, known = beyond_live_count(outcome, rule.last)
  if excess == 0 then return NONE end
  local option = outcome == 'completed' and 'removeOnComplete' or 'removeOnFail'
  local jobs, said = {}, {}
  for i = 1, #oldest, 2 do
    if #jobs + #said == excess then break end
    if not known[(i + 1) / 2] then
      local id = oldest[i]
      local read = redis.pcall('HMGET', ctx.q .. ':' .. id, 'toril', 'opts', 'parentKey')
      local job = {
        id = id, finished_on = tonumber(oldest[i + 1]), rule = rule.rule, decision = rule,
        parent_key = read[3] or false, fresh = true,
      }
      if read[1] or read[2] and string.find(read[2], option, 1, true) then
        job.why = 'said'
        said[#said + 1] = job
      else
        jobs[#jobs + 1] = job
      end
    end
  end
  local staying = let_go(outcome, jobs)
  for _, job in ipairs(said) do staying[#staying + 1] = job end
  return staying
end

-- Lets go of jobs of which nothing is to be kept. Returns those that have not gone.
local function let_go_at_once(jobs, outcome, rule)
  local all = {}
  for n, job in ipairs(jobs) do
    all[n] = {
      id = job.id, finished_on = job.finished_on, rule = rule.rule, decision = rule,
      parent_key = job.parent_key or false, fresh = true,
    }
  end
  return let_go(outcome, all)
end

-- Whether these jobs follow the live rule, it is a mere count or none, and nothing is written down
-- about them.
local function are_plain(jobs, outcome, rule)
  if rule and (rule.key or rule.first) then return false end
  if ctx.meta('toril.ceiling.' .. outcome) or ctx.meta('toril.holds.list') then return false end
  for _, job in ipairs(jobs) do
    if job.undecided or job.plan then return false end
  end
  if not state('own', outcome) then return true end
  if state('seq', outcome) then return false end
  local floor, ids = state('floor', outcome), {}
  if floor and floor > ctx.now then return false end
  for n, job in ipairs(jobs) do ids[n] = job.id end
  for _, known in ipairs(redis.call('ZMSCORE', ctx.own('own:' .. outcome), unpack(ids))) do
    if known then return false end
  end
  return true
end

local ended = {completed = {}, failed = {}}
local rules, left, settled = {}, {}, true -- left: what a call with plain jobs could not let go
for _, job in ipairs(ctx.jobs) do
  table.insert(ended[job.outcome], job)
end
for _, outcome in ipairs(OUTCOMES) do
  local jobs = ended[outcome]
  if #jobs > 0 then
    local rule = live_rule(outcome)
    rules[outcome] = rule
    if not are_plain(jobs, outcome, rule) then
      settled = false
    elseif rule and rule.last then
      left[outcome] = rule.last == 0 and let_go_at_once(jobs, outcome, rule)
        or evict(outcome, rule)
      settled = settled and #left[outcome] == 0
    else
      left[outcome] = {}
    end
  end
end
if settled then return end
