-- Let jobs of this queue go with their flow, the leaves of which are gone. args = {jobs = {{id,
-- outcome, finished_on}…}, careful, report_only, put_off = {id, outcome, why} or nil}, and service
-- and token in the queue of the flow's top. Returns {staying = {{id, why}…}, due}: who has not gone
-- and is still there; what is handed over. put_off: the top of the flow has to wait for a while.
if args.token and not ctx.lease_held(args.service, args.token) then return {lost = true} end

-- Those that still go with their flow, as the gate takes them; the others get `why`.
local function whole_jobs(outcome, asked)
  local ids, whole = {}, {}
  for n, each in ipairs(asked) do ids[n] = each[1] end
  local jobs = own_jobs(outcome, ids)
  for n, job in ipairs(jobs) do
    if job.decision.flow and job.finished_on == asked[n][3] then
      whole[#whole + 1] = job
    else
      job.why = 'changed'
    end
  end
  return jobs, whole
end

local staying = {}
for _, outcome in ipairs(OUTCOMES) do
  local asked, budget, handed = {}, ctx.budget, #due
  for _, each in ipairs(args.jobs) do
    if each[2] == outcome then asked[#asked + 1] = each end
  end
  local jobs, whole = whole_jobs(outcome, asked)
  let_go(outcome, whole)
  for _, job in ipairs(jobs) do
    if job.why and redis.call('EXISTS', ctx.q .. ':' .. job.id) == 1 then
      staying[#staying + 1] = {job.id, job.why}
    end
  end
  announce(outcome, budget - ctx.budget - (#due - handed))
end
if args.put_off then
  local id, outcome, why = unpack(args.put_off)
  local job = own_jobs(outcome, {id})[1]
  if job.finished_on and job.decision.flow then
    job.decision.why = why
    ctx.report({ctx.q, 'parked', outcome, 'flow', 1})
    wait_until(outcome, job, look_again(job.finished_on))
  end
end
return {staying = staying, due = due}
