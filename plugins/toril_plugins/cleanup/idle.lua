-- Most calls: nothing is said for the queue, and nothing was said for these jobs. Then nothing is
-- even defined.
local idle = not (ctx.meta('toril.retention.completed') or ctx.meta('toril.retention.failed')
  or ctx.meta('toril.ceiling.completed') or ctx.meta('toril.ceiling.failed')
  or ctx.meta('toril.cleanup.own.completed') or ctx.meta('toril.cleanup.own.failed')
  or ctx.meta('toril.holds.list'))
for _, job in ipairs(ctx.jobs) do idle = idle and not (job.plan or job.undecided) end
if idle then return end
