-- The rest of the chunk, when something may be written down about the job.
local outcome = ctx.state
if state('own', outcome) and redis.call('ZSCORE', ctx.own('own:' .. outcome), ctx.id) then
  forget(ctx.id, outcome)
end
uncount_live(ctx.id, outcome)
