-- Hold finished jobs that match the holds of the queue and are not held yet. args = {ids}; or
-- {outcome, after, skip}: a page of up to 200, `skip` behind the first with the score `after`; or
-- {sought}: all were looked through for the holds by name and data of that print. Returns {changed,
-- more, after, skip, query, sought, ends}: how many are held now; whether another page follows, and
-- where it begins; the print of the holds by name and data that there are, and of those that all
-- were looked through for; when the next hold ends.
local PAGE = 200

local query = ctx.meta('toril.holds.query') or ''
local reply = {changed = 0, more = false, query = query}

local function take(id, outcome)
  if held_by(id) then
    hold_finished(id, outcome)
    reply.changed = reply.changed + 1
    return true
  end
  return false
end

if args.ids then
  for _, id in ipairs(args.ids) do
    for _, outcome in ipairs(OUTCOMES) do
      local score = redis.call('ZSCORE', finished_key(outcome), id)
      if score and tonumber(score) ~= HELD then take(id, outcome) end
    end
  end
elseif args.outcome then
  local page = redis.call('ZRANGEBYSCORE', finished_key(args.outcome), args.after, '(' .. HELD,
    'WITHSCORES', 'LIMIT', args.skip, PAGE)
  local last, ties, ids = page[#page] or args.after, 0, {}
  for i = 1, #page, 2 do ids[#ids + 1] = page[i] end
  read_holds(ids)
  if last == args.after then ties = args.skip end
  for i = 1, #page, 2 do
    if not take(page[i], args.outcome) and page[i + 1] == last then ties = ties + 1 end
  end
  reply.more, reply.after, reply.skip = #page == 2 * PAGE, last, ties
elseif args.sought == query then
  ctx.set_meta('toril.cleanup.held', query ~= '' and query or nil)
end
reply.sought = ctx.meta('toril.cleanup.held') or ''
reply.ends = next_end()
return reply
