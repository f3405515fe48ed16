-- Go through the decisions. args = {service, token, outcome, cursor}. Forgets those about jobs that
-- are not in the finished set any more, or finished again, without anybody telling us. Removes jobs
-- whose own count is reached by the newer ones that are there: nobody numbers what other libraries
-- finish. Returns {cursor}, '0' at the end.
if not ctx.lease_held(args.service, args.token) then return {lost = true} end
local outcome, budget = args.outcome, ctx.budget
local finished = finished_key(outcome)
local page = redis.call('ZSCAN', ctx.own('own:' .. outcome), args.cursor, 'COUNT', 200)
local ids = {}
for i = 1, #page[2], 2 do ids[#ids + 1] = page[2][i] end
if #ids > 0 then
  -- The flag is lost when somebody else obliterates the queue.
  if not state('own', outcome) then set_state('own', outcome, 1) end
  local scores = redis.call('ZMSCORE', finished, unpack(ids))
  local rules = redis.call('HMGET', ctx.own('rule:' .. outcome), unpack(ids))
  for n, id in ipairs(ids) do
    local finished_on = tonumber(page[2][2 * n])
    local count = own_count(rules[n])
    if tonumber(scores[n] or nil) ~= finished_on then
      forget(id, outcome)
    elseif count and redis.call('ZCOUNT', finished, '(' .. scores[n], '+inf') >= count then
      remove_own(id, outcome, finished_on)
    end
  end
end
announce(outcome, budget - ctx.budget)
return {cursor = page[1]}
