-- Store what was decided after the finish. args = {service, token, jobs = {{id, outcome,
-- finished_on, plan, beyond}…}}. plan: a decision; false: the job follows the live rule;
-- 'undecided': the asking failed. beyond: the live rule did not keep it when it was asked about. A
-- job that was retried, removed or finished again in between is left alone.
if not ctx.lease_held(args.service, args.token) then return false end

-- Whether the live rule does not keep the job, now.
local function is_beyond(id, outcome, finished_on, rule)
  if rule.age >= 0 and finished_on <= ctx.now - rule.age then return true end
  if rule.count < 0 then return false end
  if rule.key == '' then
    local _, excess = others_and_excess(outcome, rule)
    return excess > 0
  end
  local bucket = bucket_key(outcome, live_bucket(id, rule))
  local rank = redis.call('ZRANK', bucket, id)
  return rank and rank < redis.call('ZCARD', bucket) - rule.count
end

local removed = {completed = 0, failed = 0}
for _, job in ipairs(args.jobs) do
  local id, outcome, finished_on, plan, beyond = unpack(job)
  local budget = ctx.budget
  local score = redis.call('ZSCORE', finished_key(outcome), id)
  if score and tonumber(score) == finished_on then
    if redis.call('ZSCORE', ctx.own('own:' .. outcome), id) then forget(id, outcome) end
    if plan == 'undecided' then
      park(id, outcome, finished_on, look_again(finished_on))
    elseif plan then
      uncount_live(id, outcome)
      local seq = state('seq', outcome)
      local after = decide(id, outcome, finished_on, plan, seq)
      if after ~= seq then set_state('seq', outcome, after) end
    else
      lower_floor(outcome, finished_on)
      local rule = live_rule(outcome)
      if rule and rule.key ~= '' then
        note_if_over(count_live(id, outcome, finished_on, rule), outcome, rule)
      end
      if rule and beyond and is_beyond(id, outcome, finished_on, rule) then
        remove_live(id, outcome, finished_on, rule)
      end
    end
  end
  removed[outcome] = removed[outcome] + budget - ctx.budget
end
for outcome, count in pairs(removed) do announce(outcome, count) end
return true
