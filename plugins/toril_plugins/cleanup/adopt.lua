-- One page of the finished jobs that other workers may have left. args = {service, token, outcome,
-- after, skip, all}: looks at up to 200 jobs with a score from `after` on, returns {next, ask}: where to go on
-- (nil: end), and {id, outcome, finished_on} of those that have a value of their own (with `all`: of
-- all) and about which nothing was decided yet. Jobs under a live rule with a key are counted here.
if not ctx.lease_held(args.service, args.token) then return {lost = true, ask = {}} end
local outcome, ask = args.outcome, {}
local page = redis.call(
  'ZRANGEBYSCORE', finished_key(outcome), args.after, '+inf', 'WITHSCORES', 'LIMIT', args.skip, 200)
if #page == 0 then return {ask = ask} end
local ids = {}
for i = 1, #page, 2 do ids[#ids + 1] = page[i] end
local known = redis.call('ZMSCORE', ctx.own('own:' .. outcome), unpack(ids))
local rule = live_rule(outcome)
for n, id in ipairs(ids) do
  local finished_on = page[2 * n]
  if known[n] ~= finished_on then
    if known[n] then forget(id, outcome) end
    if args.all or has_own_value(id, outcome) then
      ask[#ask + 1] = {id, outcome, tonumber(finished_on)}
    elseif rule and rule.key ~= '' then
      count_live(id, outcome, tonumber(finished_on), rule)
    end
  end
end
local last, ties = page[#page], 0
for i = 2, #page, 2 do if page[i] == last then ties = ties + 1 end end
if last == args.after then ties = ties + args.skip end
return {ask = ask, next = #ids == 200 and last or nil, skip = ties, last = last}
