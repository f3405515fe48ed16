-- Puts an archived job back. args = {id, outcome, finished_on, fields, logs, children, plans}.
-- Returns whether it is there now; if not, a job with its id exists.
local done = ctx.restore(args.id, args.outcome, args.finished_on, args.fields, args.logs,
  args.children, args.plans)
return done
