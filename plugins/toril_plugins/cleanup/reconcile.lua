-- Forget decisions about jobs that are not in the finished set any more, or finished again, without
-- anybody telling us. args = {service, token, outcome, cursor}. Returns {cursor}, '0' at the end.
if not ctx.lease_held(args.service, args.token) then return {lost = true} end
local outcome = args.outcome
local page = redis.call('ZSCAN', ctx.own('own:' .. outcome), args.cursor, 'COUNT', 200)
local ids = {}
for i = 1, #page[2], 2 do ids[#ids + 1] = page[2][i] end
if #ids > 0 then
  -- The flag is lost when somebody else obliterates the queue.
  if not state('own', outcome) then set_state('own', outcome, 1) end
  local scores = redis.call('ZMSCORE', finished_key(outcome), unpack(ids))
  for n, id in ipairs(ids) do
    if tonumber(scores[n] or nil) ~= tonumber(page[2][2 * n]) then forget(id, outcome) end
  end
end
return {cursor = page[1]}
