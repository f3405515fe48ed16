-- For the sweeper's scripts: what falls due is handed over, if somebody reviews or copies.

local given = {} -- their ids
local due = {} -- {id, outcome, finished_on, rule, decision, own} of the jobs that are handed over

-- As ctx.remove_all, within the same budget, but hands the jobs over.
local function hand_over(outcome, jobs)
  local now, staying = {}, {}
  for n, job in ipairs(jobs) do
    if n > ctx.budget then
      job.why = 'budget'
      staying[#staying + 1] = job
    elseif not given[job.id] then -- by another rule, in the same slice
      now[#now + 1] = job
    end
  end
  for _, job in ipairs(ctx.refused(outcome, now)) do staying[#staying + 1] = job end
  for _, job in ipairs(now) do
    if not job.why then
      ctx.budget = ctx.budget - 1
      given[job.id] = true
      due[#due + 1] =
        {job.id, outcome, job.finished_on, job.rule, job.decision or {}, job.own or false}
    end
  end
  return staying
end

-- args.careful: hand over what falls due; args.report_only: let nothing go.
gate.hand_over = args.careful and hand_over or nil
gate.later = args.report_only or false
ctx.budget = math.min(ctx.budget, args.most or ctx.budget)
