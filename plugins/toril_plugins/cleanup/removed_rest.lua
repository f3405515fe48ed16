-- The rest of the chunk, when something may be written down about the job.
if not job or job.own or job.unsure then
  if state('own', outcome) and redis.call('ZSCORE', ctx.own('own:' .. outcome), ctx.id) then
    forget(ctx.id, outcome)
  end
end
if job and job.set then
  redis.call('ZREM', job.set, ctx.id)
elseif not job or job.unsure then
  uncount_live(ctx.id, outcome)
end
