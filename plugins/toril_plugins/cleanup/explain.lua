-- What is decided about one job. args = {id}. Returns {id, held, missing, outcome, finished_on,
-- parent, out_of_reach, own, rule, since, asked, why, note, again, flow, done, at, left, first,
-- ceiling}. held: the holds that it matches; missing: required plugins that this process lacks; no
-- outcome: it has not finished. parent: the key of a living parent that waits for it; out_of_reach:
-- it is held; own: it does not follow the live rule; since: a plugin decided so then (ms); again:
-- it was put off until then (ms); flow: it goes with its flow; done: the tiers that have been done;
-- at, left: it goes then (ms), or after so many more jobs; first: it is one of the first that are
-- counted together, which stay; ceiling: {at, left}, by the ceiling.
local id = args.id

local function score(index, outcome)
  return tonumber(redis.call('ZSCORE', ctx.own(index .. ':' .. outcome), id) or nil)
end

local function count_newer(key, finished_on)
  return redis.call('ZCOUNT', key, '(' .. string.format('%.0f', finished_on), '(' .. HELD)
end

-- The place of a job among those that are counted together: it is one of the first, or so many more
-- may come.
local function tell_place(told, key, decision, finished_on)
  local older = redis.call('ZCOUNT', key, '-inf', '(' .. string.format('%.0f', finished_on))
  if older < (decision.first or 0) then
    told.first = true
  else
    told.left = (decision.last or 0) - count_newer(key, finished_on)
  end
end

-- After how many more jobs an own count is reached, or nil.
local function left_of(outcome, finished_on, decision)
  local nth = score('nth', outcome)
  if not nth then return nil end
  local left, count = nth - (state('seq', outcome) or 0), own_count(decision)
  if not count then return left end
  return math.min(left, count - count_newer(finished_key(outcome), finished_on))
end

-- The key of a living parent that waits for the job.
local function waiting_parent()
  local key = ctx.q .. ':' .. id
  local parent = redis.pcall('HGET', key, 'parentKey')
  if type(parent) ~= 'string' or redis.call('EXISTS', parent) == 0 then return nil end
  return redis.pcall('SISMEMBER', parent .. ':dependencies', key) == 1 and parent or nil
end

local function tell_own(told, outcome, finished_on)
  local decision = stored_decision(id, outcome) or {}
  local at, due = score('at', outcome), score('due', outcome)
  told.own, told.rule, told.asked = true, decision.rule or '', decision.asked
  told.since, told.why, told.note, told.flow =
    decision.since, decision.why, decision.note, decision.flow
  told.again = due or decision.over and at or nil
  told.done = {logs = not decision.logs, data = not decision.data}
  told.at = decision.age and finished_on + decision.age or nil
  if decision.bucket then
    tell_place(told, bucket_key(outcome, decision.bucket), decision, finished_on)
  else
    told.left = left_of(outcome, finished_on, decision)
  end
end

local function tell_live(told, outcome, finished_on, rule)
  told.rule, told.done = rule.rule, {}
  for _, tier in ipairs({'logs', 'data'}) do
    local floor = state(tier, outcome)
    told.done[tier] = floor ~= nil and floor >= finished_on
  end
  told.at = rule.age and finished_on + rule.age or nil
  if is_bucketed(rule) then
    tell_place(told, bucket_key(outcome, live_bucket(id, rule)), rule, finished_on)
  elseif rule.last then
    local others = count_newer(ctx.own('own:' .. outcome), finished_on)
    told.left = rule.last - (count_newer(finished_key(outcome), finished_on) - others)
  end
end

local told = {id = id, held = held_by(id), missing = missing_plugins()}
for _, outcome in ipairs(OUTCOMES) do
  local finished_on = tonumber(redis.call('ZSCORE', finished_key(outcome), id) or nil)
  if finished_on then
    told.outcome, told.finished_on, told.parent = outcome, finished_on, waiting_parent()
    local rule = live_rule(outcome)
    if finished_on == HELD then
      told.out_of_reach = true
    elseif score('own', outcome) == finished_on then
      tell_own(told, outcome, finished_on)
    elseif rule then
      tell_live(told, outcome, finished_on, rule)
    end
    local ceiling = parse_rule(ctx.meta('toril.ceiling.' .. outcome))
    if ceiling and not told.out_of_reach then
      told.ceiling = {
        at = ceiling.age and finished_on + ceiling.age,
        left = ceiling.last
          and ceiling.last - count_newer(finished_key(outcome), finished_on),
      }
    end
    return told
  end
end
return told
