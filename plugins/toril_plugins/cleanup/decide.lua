-- Store what was decided after the finish. args = {service, token, careful, report_only, most,
-- jobs = {{id, outcome, finished_on, answer, beyond}…}}. answer: a decision; false: the job follows
-- the live rule; a text: the plugin that could not answer. beyond: the live rule did not keep it
-- when it was asked about. A job that was retried, removed or finished again in between is left
-- alone. Returns {due}: what is handed over.
if not ctx.lease_held(args.service, args.token) then return {lost = true} end

-- Whether the live rule does not keep the job, now.
local function is_beyond(id, outcome, finished_on, rule)
  if rule.age and finished_on <= ctx.now - rule.age then return true end
  if not is_bucketed(rule) then
    local _, excess = others_and_excess(outcome, rule)
    return excess > 0
  end
  local bucket = bucket_key(outcome, live_bucket(id, rule))
  local rank = redis.call('ZRANK', bucket, id)
  return rank and rank >= (rule.first or 0)
    and rank < redis.call('ZCARD', bucket) - (rule.last or 0)
end

local removed = {completed = 0, failed = 0}
for _, job in ipairs(args.jobs) do
  local id, outcome, finished_on, answer, beyond = unpack(job)
  local budget, handed = ctx.budget, #due
  local score = redis.call('ZSCORE', finished_key(outcome), id)
  if score and tonumber(score) == finished_on then
    local was_own = redis.call('ZSCORE', ctx.own('own:' .. outcome), id)
    if was_own then forget(id, outcome) end
    if type(answer) == 'string' then
      park(id, outcome, finished_on, look_again(finished_on), {asked = answer})
      ctx.report({ctx.q, 'parked', outcome, 'undecided', 1})
    elseif answer then
      uncount_live(id, outcome)
      local seq = state('seq', outcome)
      local after = decide(id, outcome, finished_on, answer, seq)
      if after ~= seq then set_state('seq', outcome, after) end
    else
      lower_floor(outcome, finished_on)
      if was_own then strip_again(outcome, finished_on) end
      local rule = live_rule(outcome)
      if rule and is_bucketed(rule) then
        note_if_over(outcome, count_live(id, outcome, finished_on, rule), rule)
      end
      if rule and beyond and is_beyond(id, outcome, finished_on, rule) then
        let_go_or_put_off(outcome, {{
          id = id, finished_on = finished_on, rule = rule.rule, decision = rule, unsure = true,
        }})
      end
    end
  end
  removed[outcome] = removed[outcome] + budget - ctx.budget - (#due - handed)
end
for outcome, count in pairs(removed) do announce(outcome, count) end
return {due = due}
