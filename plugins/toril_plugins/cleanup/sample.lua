-- One page of finished jobs, oldest first, and what a plan needs to know of each. args = {outcome,
-- after, skip, most, rule = the live rule to plan for, as it is projected, or ''}. Returns {jobs,
-- more, after, skip}; a job is {id, finished_on, own, decision or false, at or false, numbered,
-- said, held, awaited, bucket}. own: it does not follow the live rule, and `decision` is what it
-- follows (false: somebody is to be asked); numbered: its number came; said: something may have
-- been said for it alone; awaited: a living parent waits for it; bucket: in which it is counted
-- under the rule; held: the handles of the holds that it matches. Also {logs, data}: up to which
-- time the live rule's tiers have been done. With args.weigh = ids: the bytes that each of them
-- takes. With args.held: so many jobs that are held, behind the first `skip`, as the handles of
-- their holds.
local PARTS = {'', ':logs', ':dependencies', ':processed', ':failed', ':unsuccessful'}

local function weight(id)
  local bytes = 0
  for _, part in ipairs(PARTS) do
    bytes = bytes + (redis.call('MEMORY', 'USAGE', ctx.q .. ':' .. id .. part) or 0)
  end
  return bytes
end

if args.weigh then
  local weights = {}
  for n, id in ipairs(args.weigh) do weights[n] = weight(id) end
  return weights
end

local function handles_of(id)
  local handles = {}
  for n, hold in ipairs(held_by(id) or {}) do handles[n] = hold.handle end
  return table.concat(handles, ' ')
end

local outcome, rule = args.outcome, parse_rule(args.rule)
if args.held then
  local handles = {}
  for n, id in ipairs(redis.call('ZRANGEBYSCORE', finished_key(outcome), HELD, HELD,
    'LIMIT', args.skip, args.held)) do handles[n] = handles_of(id) end
  return handles
end
local page = redis.call('ZRANGEBYSCORE', finished_key(outcome), args.after, '(' .. HELD,
  'WITHSCORES', 'LIMIT', args.skip, args.most)
local ids, jobs, known = {}, {}, {}
for i = 1, #page, 2 do ids[#ids + 1] = page[i] end
if #ids > 0 and state('own', outcome) then
  known = redis.call('ZMSCORE', ctx.own('own:' .. outcome), unpack(ids))
end
local seq = state('seq', outcome)

local function is_awaited(id)
  local key = ctx.q .. ':' .. id
  local parent = redis.pcall('HGET', key, 'parentKey')
  if type(parent) ~= 'string' or parent == '' or redis.call('EXISTS', parent) == 0 then
    return false
  end
  return redis.pcall('SISMEMBER', parent .. ':dependencies', key) == 1
end

local function score(index, id)
  return tonumber(redis.call('ZSCORE', ctx.own(index .. ':' .. outcome), id) or nil)
end

for n, id in ipairs(ids) do
  local own = known[n] == page[2 * n]
  -- About a parked job is asked again, whatever is noted about it.
  local decision = own and not score('due', id) and stored_decision(id, outcome) or false
  local nth = own and seq and score('nth', id)
  jobs[n] = {
    id, tonumber(page[2 * n]), own, decision, own and score('at', id) or false,
    nth and nth <= seq or false, has_own_value(id, outcome), handles_of(id), is_awaited(id),
    rule and is_bucketed(rule) and live_bucket(id, rule) or '',
  }
end
local last, ties = page[#page] or args.after, 0
for i = 2, #page, 2 do if page[i] == last then ties = ties + 1 end end
if last == args.after then ties = ties + args.skip end
return {
  jobs = jobs, more = #ids == args.most, after = last, skip = ties,
  logs = state('logs', outcome), data = state('data', outcome),
}
