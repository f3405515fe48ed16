-- One page of an index, and what in it is true no more: jobs that were retried, removed or finished
-- again without telling. args = {outcome, index, cursor}, index: own, at, nth, due, rule or
-- bucket:<hash>. Returns {cursor, looked, wrong}: '0' at the end; {id, early} of what is wrong,
-- early: when it was due, if it has gone for good before. With args.forget = ids: forgets those for
-- which it is still so; returns how many. With args.endless = keys of the plugin's own: those that
-- never end; with args.drop they go.
local PAGE = 40

if args.endless then
  local found = {}
  for _, name in ipairs(args.endless) do
    if redis.call('PTTL', ctx.own(name)) == -1 then
      found[#found + 1] = name
      if args.drop then redis.call('UNLINK', ctx.own(name)) end
    end
  end
  return found
end

local outcome = args.outcome
local index = args.index .. ':' .. outcome
local hash = string.match(args.index, '^bucket:(%x+)$')
if hash then index = 'bucket:' .. outcome .. ':' .. hash end
local key, finished = ctx.own(index), finished_key(outcome)

-- Whether what the index says of a job is true: `own` and buckets hold the score of its finish, all
-- else is about jobs in `own`.
local function is_true(id)
  if args.index == 'own' or hash then
    local score = redis.call('ZSCORE', key, id)
    return score and score == redis.call('ZSCORE', finished, id)
  end
  return redis.call('ZSCORE', ctx.own('own:' .. outcome), id) ~= false
end

local function is_there(id)
  local found = redis.call(args.index == 'rule' and 'HGET' or 'ZSCORE', key, id)
  return found ~= false
end

local function drop(id)
  if args.index == 'own' then
    forget(id, outcome)
  elseif args.index == 'rule' then
    redis.call('HDEL', key, id)
  else
    redis.call('ZREM', key, id)
  end
end

-- When the job was due, if it was kept for a time and has gone before.
local function gone_early(id)
  if args.index ~= 'own' or redis.call('EXISTS', ctx.q .. ':' .. id) == 1 then return nil end
  local at = tonumber(redis.call('ZSCORE', ctx.own('at:' .. outcome), id) or nil)
  if at and at > ctx.now then return at end
  return nil
end

if args.forget then
  local count = 0
  for _, id in ipairs(args.forget) do
    if is_there(id) and not is_true(id) then
      drop(id)
      count = count + 1
    end
  end
  return count
end

local scan = args.index == 'rule' and 'HSCAN' or 'ZSCAN'
local page, wrong = redis.call(scan, key, args.cursor, 'COUNT', PAGE), {}
for i = 1, #page[2], 2 do
  local id = page[2][i]
  if not is_true(id) then wrong[#wrong + 1] = {id, gone_early(id)} end
end
return {cursor = page[1], looked = #page[2] / 2, wrong = wrong}
