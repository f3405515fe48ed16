-- Store decisions that were made after the finish. args = {service, token, jobs = {{id, outcome, finished_on,
-- plan or false}…}}; false: the job follows the live rule. A job that was retried, removed or
-- finished again in between is left alone. Returns how many were stored.
if not ctx.lease_held(args.service, args.token) then return 0 end
local stored = 0
for _, job in ipairs(args.jobs) do
  local id, outcome, finished_on, plan = job[1], job[2], job[3], job[4]
  local score = redis.call('ZSCORE', finished_key(outcome), id)
  if score and tonumber(score) == finished_on then
    stored = stored + 1
    forget(id, outcome)
    if plan then
      local seq = state('seq', outcome)
      local after = decide(id, outcome, finished_on, plan, seq)
      if after ~= seq then set_state('seq', outcome, after) end
    else
      local floor = state('floor', outcome)
      if floor and floor > finished_on then set_state('floor', outcome, finished_on) end
      local rule = live_rule(outcome)
      if rule and rule.key ~= '' then count_live(id, outcome, finished_on, rule) end
    end
  end
end
return stored
