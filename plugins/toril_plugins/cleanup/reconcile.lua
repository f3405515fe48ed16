-- Go through the decisions. args = {service, token, careful, report_only, most, outcome, cursor}.
-- Forgets those about jobs that are not in the finished set any more, or finished again, without
-- anybody telling us. Removes jobs whose own count is reached by the newer ones that are there:
-- nobody numbers what other libraries finish. Returns {cursor, due}: '0' at the end; what is handed
-- over.
if not ctx.lease_held(args.service, args.token) then return {lost = true} end
local outcome, budget = args.outcome, ctx.budget
local finished = finished_key(outcome)
local page = redis.call('ZSCAN', ctx.own('own:' .. outcome), args.cursor, 'COUNT', 40)
local ids = {}
for i = 1, #page[2], 2 do ids[#ids + 1] = page[2][i] end
if #ids > 0 then
  -- The flag is lost when somebody else obliterates the queue.
  if not state('own', outcome) then set_state('own', outcome, 1) end
  local scores = redis.call('ZMSCORE', finished, unpack(ids))
  local reached = {}
  for n, job in ipairs(own_jobs(outcome, ids)) do
    local count = own_count(job.decision)
    if tonumber(scores[n] or nil) ~= job.finished_on then
      forget(job.id, outcome)
    elseif count and redis.call('ZCOUNT', finished, '(' .. scores[n], '(' .. HELD) >= count then
      reached[#reached + 1] = job
    end
  end
  let_go_or_put_off(outcome, reached)
end
announce(outcome, budget - ctx.budget - #due)
return {cursor = page[1], due = due}
