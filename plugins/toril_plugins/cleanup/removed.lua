-- Before the keys of a job go, whoever removes it: leave its tombstone, and forget what was decided
-- about it. Not called for jobs that this plugin removes and of which nothing is written down.
local outcome, job = ctx.state, nil
if outcome ~= 'completed' and outcome ~= 'failed' then return end
if ctx.seen.going then job = ctx.seen.going[ctx.id] end
local written = not job or job.own or job.set or job.unsure
