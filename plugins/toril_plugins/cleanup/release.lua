-- Release held jobs of an outcome that no hold keeps any more. args = {outcome, skip}: looks at up
-- to 200 of those that are held, behind the first `skip`. Returns {changed, more, skip}.
local PAGE = 200

local outcome, skip, changed = args.outcome, args.skip, 0
local own, finished = ctx.own('own:' .. outcome), finished_key(outcome)
local ids = redis.call('ZRANGEBYSCORE', own, HELD, HELD, 'LIMIT', skip, PAGE)
read_holds(ids)
for _, id in ipairs(ids) do
  local score = redis.call('ZSCORE', finished, id)
  if not score or tonumber(score) ~= HELD then
    forget(id, outcome) -- retried or removed meanwhile, and nobody told us
  elseif held_by(id) then
    skip = skip + 1
  else
    local ended = redis.pcall('HGET', ctx.q .. ':' .. id, 'finishedOn')
    local finished_on = type(ended) == 'string' and tonumber(ended) or ctx.now
    forget(id, outcome)
    redis.call('ZADD', finished, finished_on, id)
    lower_floor(outcome, finished_on)
    park(id, outcome, finished_on, ctx.now)
    changed = changed + 1
  end
end
return {changed = changed, more = #ids == PAGE, skip = skip}
