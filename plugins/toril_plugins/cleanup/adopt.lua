-- One page of the finished jobs that other workers may have left. args = {service, token, outcome,
-- after, skip, all}: looks at up to 40 jobs, `skip` behind the first with the score `after`.
-- Returns {ask, more, after, skip}: {id, finished_on} of those that have a value of their own (with
-- `all`: of all) and about which nothing was decided; whether another page follows, and where it
-- begins. Jobs under a live rule with a key are counted here.
local PAGE = 40 -- they take the server as long as some removals

if not ctx.lease_held(args.service, args.token) then return {lost = true} end
local outcome, ask = args.outcome, {}
-- Some of those that were seen may be gone.
local skip = math.min(
  args.skip, redis.call('ZCOUNT', finished_key(outcome), args.after, args.after))
local page = redis.call(
  'ZRANGEBYSCORE', finished_key(outcome), args.after, '(' .. HELD,
  'WITHSCORES', 'LIMIT', skip, PAGE)
if #page == 0 then return {ask = ask, more = false, after = args.after, skip = skip} end
local ids = {}
for i = 1, #page, 2 do ids[#ids + 1] = page[i] end
local known = redis.call('ZMSCORE', ctx.own('own:' .. outcome), unpack(ids))
local rule, last = live_rule(outcome), page[#page]
read_holds(ids)
for n, id in ipairs(ids) do
  local score = page[2 * n]
  if known[n] ~= score then
    local finished_on = tonumber(score)
    if known[n] then forget(id, outcome) end
    lower_floor(outcome, finished_on)
    if held_by(id) then
      hold_finished(id, outcome)
      page[2 * n] = false -- it is not there any more
    elseif args.all or has_own_value(id, outcome) then
      ask[#ask + 1] = {id, finished_on}
    elseif rule and is_bucketed(rule) then
      note_if_over(outcome, count_live(id, outcome, finished_on, rule), rule)
    end
  end
end
local ties = 0
for i = 2, #page, 2 do if page[i] == last then ties = ties + 1 end end
if last == args.after then ties = ties + skip end
return {ask = ask, more = #ids == PAGE, after = last, skip = ties}
