-- One slice of a sweep. args = {service, token, all, careful, most, places}. all: ask about every
-- job that the live rule does not keep, as there are strategies; else only about those with a value
-- of their own. careful: hand over what falls due. most: so many jobs at most. only_reports: this
-- process removes nothing, as its options say.
-- places = {outcome -> {floor, skip, ceiling}}, where the last slice stopped. Returns {more, ask,
-- due, places, rules, missing, flows, lag, kept}: whether another slice is needed now; of the jobs
-- about which plugins must be asked {id, outcome, finished_on, beyond}; what is handed over; per
-- outcome {text, key} of the live rule; the plugins without which nothing goes; {id, outcome} of
-- the tops of flows whose age has come; for how long, in ms, the oldest of what was found has been
-- due; per outcome how many have finished and are there, and how many of those are held.
local MARGIN, BUCKETS = 1000, 50

if not ctx.lease_held(args.service, args.token) then return {lost = true} end

local more, ask, places, rules, flows = false, {}, {}, {}, {}
local asked_beyond, lag = 0, 0

-- How many more jobs this slice may remove, or ask about to remove them.
local function room()
  return ctx.budget - asked_beyond
end

-- Those of the jobs that may go unasked.
local function unasked(jobs, outcome)
  local free = {}
  for _, job in ipairs(jobs) do
    local said = args.all
    if not said then said, job.parent_key = has_own_value(job.id, outcome) end
    if said then
      ask[#ask + 1] = {job.id, outcome, job.finished_on, true}
      asked_beyond = asked_beyond + 1
    else
      free[#free + 1] = job
    end
  end
  return free
end

-- Only jobs with a decision of their own are in `due` and `at`: without any nobody looks there.
local function ask_parked(outcome)
  if not state('own', outcome) then return true end
  local parked, most = ctx.own('due:' .. outcome), args.most
  local ids = redis.call('ZRANGEBYSCORE', parked, '-inf', ctx.now, 'LIMIT', 0, most)
  for _, id in ipairs(ids) do
    local finished_on = redis.call('ZSCORE', ctx.own('own:' .. outcome), id)
    if finished_on and redis.call('ZSCORE', finished_key(outcome), id) == finished_on then
      -- Not again soon, should nobody come back with an answer.
      redis.call('ZADD', parked, ctx.now + MINUTE, id)
      ask[#ask + 1] = {id, outcome, tonumber(finished_on), false}
    else
      forget(id, outcome)
    end
  end
  return #ids < most
end

local function evict_aged(outcome)
  if not state('own', outcome) then return true end
  local most = room()
  if most <= 0 then return false end
  local ids = redis.call(
    'ZRANGEBYSCORE', ctx.own('at:' .. outcome), '-inf', ctx.now, 'LIMIT', 0, most)
  if ids[1] then
    lag = math.max(lag, ctx.now - redis.call('ZSCORE', ctx.own('at:' .. outcome), ids[1]))
  end
  let_go_or_put_off(outcome, take_steps(outcome, own_jobs(outcome, ids), flows))
  return #ids < most
end

-- Take what the live rule does not keep, oldest first, and raise the floor over jobs with a
-- decision of their own. Where these fill the whole window and end at one time, the next slice goes
-- on behind them: `place.skip` jobs from `place.floor`. Returns whether nothing is left.
local function evict_live(outcome, rule, place)
  local most = room()
  local others, excess = others_and_excess(outcome, rule)
  local cutoff = rule.age and ctx.now - rule.age or nil
  if excess <= 0 and not cutoff then return true end
  if most <= 0 then return false end
  local floor = others > 0 and state('floor', outcome) or nil
  local skip = floor and floor == place.floor and place.skip or 0
  local window = others > 0 and most + MARGIN or most
  local found = redis.call('ZRANGEBYSCORE', finished_key(outcome), floor or '-inf',
    excess > 0 and '+inf' or cutoff, 'WITHSCORES', 'LIMIT', skip, window)
  local ids, own = {}, {}
  for i = 1, #found, 2 do ids[#ids + 1] = found[i] end
  if others > 0 and #ids > 0 then
    own = redis.call('ZMSCORE', ctx.own('own:' .. outcome), unpack(ids))
  end
  local head, done = 0, #ids < window -- head: jobs before the first that follows the live rule
  local beyond = {}
  for n, id in ipairs(ids) do
    local finished_on = tonumber(found[2 * n])
    if own[n] then
      if head == n - 1 then head = n end
    elseif #beyond == most then
      done = false
      break
    elseif #beyond < excess or cutoff and finished_on <= cutoff then
      beyond[#beyond + 1] =
        {id = id, finished_on = finished_on, rule = rule.rule, decision = rule, fresh = true}
      if cutoff then lag = math.max(lag, cutoff - finished_on) end
      if is_bucketed(rule) then beyond[#beyond].unsure = true end
    else
      done = true
      break
    end
  end
  let_go_or_put_off(outcome, unasked(beyond, outcome))
  if head > 0 then
    local last = found[2 * head]
    local ties = floor == tonumber(last) and skip or 0
    for n = 1, head do if found[2 * n] == last then ties = ties + 1 end end
    set_state('floor', outcome, tonumber(last))
    place.floor, place.skip = tonumber(last), head == #ids and ties or 0
  end
  return done
end

-- Take what is too many in the buckets that somebody noted. Returns whether none is left.
local function trim_buckets(outcome, rule)
  local over = ctx.own('over:' .. outcome)
  local noted = redis.call('SRANDMEMBER', over, BUCKETS)
  if #noted == 0 then return true end
  for _, bucket in ipairs(noted) do
    if room() <= 0 then return false end
    local beyond = {}
    if rule and is_bucketed(rule) then beyond = beyond_count(outcome, bucket, rule, room()) end
    if #beyond == 0 then redis.call('SREM', over, bucket) end
    for _, old in ipairs(beyond) do old.set = bucket_key(outcome, bucket) end
    let_go_or_put_off(outcome, unasked(beyond, outcome))
  end
  return redis.call('EXISTS', over) == 0
end

-- By what the live rule counts jobs in buckets; '' if it does not.
local function counted_by(rule)
  return rule and is_bucketed(rule) and 'each ' .. (rule.key or '') or ''
end

local missing, kept = missing_plugins(), {}
for _, outcome in ipairs(OUTCOMES) do
  local budget, handed, place = ctx.budget, #due, args.places[outcome] or {}
  local rule, seq = live_rule(outcome), state('seq', outcome)
  local done = ask_parked(outcome)
  if not missing and not args.report_only then
    done = evict_aged(outcome) and done
    if seq then done = evict_counted(outcome, seq, room()) and done end
    local finished, at = apply_ceiling(outcome, MARGIN, place.ceiling or 0)
    done, place.ceiling = finished and done, at
    if rule then
      done = evict_live(outcome, rule, place) and done
      done = strip_live(outcome, rule, place) and done
    end
    done = trim_buckets(outcome, rule) and done
  end
  if not done or room() <= 0 then more = true end
  places[outcome] = place
  rules[outcome] = {rule and rule.rule or '', counted_by(rule)}
  if seq and redis.call('ZCARD', ctx.own('nth:' .. outcome)) == 0 then
    set_state('seq', outcome, nil)
  end
  if state('own', outcome) and redis.call('ZCARD', ctx.own('own:' .. outcome)) == 0 then
    set_state('own', outcome, nil)
    set_state('floor', outcome, nil)
  end
  announce(outcome, budget - ctx.budget - (#due - handed))
  local finished = finished_key(outcome)
  kept[outcome] = {redis.call('ZCARD', finished), redis.call('ZCOUNT', finished, HELD, HELD)}
end
local said = rules.completed[1] ~= '' or rules.failed[1] ~= ''
  or ctx.meta('toril.ceiling.completed') or ctx.meta('toril.ceiling.failed')
  or state('own', 'completed') or state('own', 'failed')
-- For an audit, and whoever asks what becomes of the rules.
if said and not (more or missing or args.report_only and not args.only_reports) then
  local mark = args.only_reports and 'reported' or 'swept'
  local ended = mark == 'swept' and ctx.meta('toril.cleanup.reported')
  local before = tonumber(ctx.meta('toril.cleanup.' .. mark) or nil) or 0
  if ended or ctx.now - before > MINUTE then ctx.set_meta('toril.cleanup.' .. mark, ctx.now) end
  if ended then ctx.set_meta('toril.cleanup.reported', nil) end
end
return {
  more = more, ask = ask, due = due, places = places, rules = rules, missing = missing,
  lag = lag, kept = kept,
  holds = ctx.meta('toril.holds.print') or '',
  flows = flows,
}
