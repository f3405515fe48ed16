-- Puts an archived job back. args = {id, outcome, finished_on, fields, logs, children, stay = ms}
local done = ctx.restore(args.id, args.outcome, args.finished_on, args.fields, args.logs,
  args.children, {cleanup = args.stay})
return done
