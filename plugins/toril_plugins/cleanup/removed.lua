-- Before the keys of a job go, whoever removes it: forget what was decided about it. Most jobs
-- follow a live rule without a key; about them nothing is written down.
local outcome, job = ctx.state, nil
if outcome ~= 'completed' and outcome ~= 'failed' then return end
if ctx.seen.going then job = ctx.seen.going[ctx.id] end
local written = not job or job.own or job.set or job.unsure
if not written then return end
