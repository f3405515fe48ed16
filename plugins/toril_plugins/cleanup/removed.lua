-- Before the keys of a job go, whoever removes it: leave its tombstone, and forget what was decided
-- about it. Most jobs follow a live rule without a key or a tombstone; nothing is written for them.
local outcome, job = ctx.state, nil
if outcome ~= 'completed' and outcome ~= 'failed' then return end
if ctx.seen.going then job = ctx.seen.going[ctx.id] end
local written = not job or job.own or job.set or job.unsure
local leaves = job and (ctx.meta('toril.idwindow.ms') or job.decision and job.decision.tombstone)
if not written and not leaves then return end
