-- Before the keys of a job go, whoever removes it: forget what was decided about it.
local outcome = ctx.state
if outcome == 'completed' or outcome == 'failed' then
  if state('own', outcome) and redis.call('ZSCORE', ctx.own('own:' .. outcome), ctx.id) then
    forget(ctx.id, outcome)
  end
  uncount_live(ctx.id, outcome)
end
