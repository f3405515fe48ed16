-- One slice of a sweep. args = {service, token, all, places}. all: ask about every job that the
-- live rule does not keep, as there are strategies; else only about those with a value of their
-- own. places = {outcome -> {floor, skip}}, where the last slice stopped. Returns {more, ask,
-- places, rules}: whether another slice is needed now; {id, outcome, finished_on, beyond} of the
-- jobs about which the plugins must be asked; per outcome {text, key} of the live rule.
local ASKS, MARGIN, BUCKETS = 100, 1000, 50

if not ctx.lease_held(args.service, args.token) then return {lost = true} end

local more, ask, places, rules = false, {}, {}, {}
local asked_beyond = 0

-- How many more jobs this slice may remove, or ask about to remove them.
local function room()
  return ctx.budget - asked_beyond
end

-- Returns whether it has to be asked about first.
local function take(id, outcome, finished_on, rule)
  if args.all or has_own_value(id, outcome) then
    ask[#ask + 1] = {id, outcome, finished_on, true}
    asked_beyond = asked_beyond + 1
    return true
  end
  remove_live(id, outcome, finished_on, rule)
  return false
end

local function ask_parked(outcome)
  local due = ctx.own('due:' .. outcome)
  local ids = redis.call('ZRANGEBYSCORE', due, '-inf', ctx.now, 'LIMIT', 0, ASKS)
  for _, id in ipairs(ids) do
    local finished_on = redis.call('ZSCORE', ctx.own('own:' .. outcome), id)
    if finished_on and redis.call('ZSCORE', finished_key(outcome), id) == finished_on then
      -- Not again soon, should nobody come back with an answer.
      redis.call('ZADD', due, ctx.now + MINUTE, id)
      ask[#ask + 1] = {id, outcome, tonumber(finished_on), false}
    else
      forget(id, outcome)
    end
  end
  return #ids < ASKS
end

local function evict_aged(outcome)
  local most = room()
  local ids = redis.call(
    'ZRANGEBYSCORE', ctx.own('at:' .. outcome), '-inf', ctx.now, 'LIMIT', 0, most)
  for _, id in ipairs(ids) do
    remove_own(id, outcome, tonumber(redis.call('ZSCORE', ctx.own('own:' .. outcome), id)))
  end
  return #ids < most
end

-- Take what the live rule does not keep, oldest first, and raise the floor over jobs with a
-- decision of their own. Where these fill the whole window and end at one time, the next slice goes
-- on behind them: `place.skip` jobs from `place.floor`. Returns whether nothing is left.
local function evict_live(outcome, rule, place)
  local most = room()
  local others, excess = others_and_excess(outcome, rule)
  local cutoff = rule.age >= 0 and ctx.now - rule.age or nil
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
  local taken = 0
  for n, id in ipairs(ids) do
    local finished_on = tonumber(found[2 * n])
    if own[n] then
      if head == n - 1 then head = n end
    elseif taken == most then
      done = false
      break
    elseif excess > 0 or (cutoff and finished_on <= cutoff) then
      take(id, outcome, finished_on, rule)
      taken, excess = taken + 1, excess - 1
    else
      done = true
      break
    end
  end
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
  for _, bucket in ipairs(redis.call('SRANDMEMBER', over, BUCKETS)) do
    if room() <= 0 then return false end
    local key, beyond = bucket_key(outcome, bucket), {}
    if rule and rule.key ~= '' then beyond = beyond_count(key, outcome, rule.count, room()) end
    if #beyond == 0 then redis.call('SREM', over, bucket) end
    for _, old in ipairs(beyond) do
      if not take(old[1], outcome, old[2], rule) then redis.call('ZREM', key, old[1]) end
    end
  end
  return redis.call('EXISTS', over) == 0
end

for _, outcome in ipairs({'completed', 'failed'}) do
  local budget, place = ctx.budget, args.places[outcome] or {}
  local rule, seq = live_rule(outcome), state('seq', outcome)
  local done = ask_parked(outcome)
  done = evict_aged(outcome) and done
  if seq then
    done = evict_counted(outcome, seq, room()) and done
    if redis.call('ZCARD', ctx.own('nth:' .. outcome)) == 0 then set_state('seq', outcome, nil) end
  end
  if rule then done = evict_live(outcome, rule, place) and done end
  done = trim_buckets(outcome, rule) and done
  if not done then more = true end
  places[outcome] = place
  rules[outcome] = {rule and rule.text or '', rule and rule.key or ''}
  if state('own', outcome) and redis.call('ZCARD', ctx.own('own:' .. outcome)) == 0 then
    set_state('own', outcome, nil)
    set_state('floor', outcome, nil)
  end
  announce(outcome, budget - ctx.budget)
end
return {more = more, ask = ask, places = places, rules = rules}
