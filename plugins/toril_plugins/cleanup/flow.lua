-- Looks at jobs of a flow. args = {climb = id} or {keys = up to 50 keys of jobs}. Returns {the key
-- of the root above a job of this queue} or, for each key, {exists, 'completed', 'failed' or '',
-- waits (for children), whole, keys of its children, at most 1000}.
local MOST = 1000

local function split(key)
  return string.match(key, '^(.*):([^:]*)$')
end

if args.climb then
  local key = ctx.q .. ':' .. args.climb
  for _ = 1, 1000 do
    local parent = redis.pcall('HGET', key, 'parentKey')
    if type(parent) ~= 'string' or redis.call('EXISTS', parent) == 0 then break end
    key = parent
  end
  return {key}
end

local function outcome_of(queue, id)
  for _, outcome in ipairs({'completed', 'failed'}) do
    if redis.call('ZSCORE', queue .. ':' .. outcome, id) then return outcome end
  end
  return ''
end

local CHILDREN = {
  {'dependencies', 'SCARD', 'SMEMBERS'}, {'processed', 'HLEN', 'HKEYS'},
  {'failed', 'HLEN', 'HKEYS'}, {'unsuccessful', 'ZCARD', 'ZRANGE', 0, -1},
}

local function children_of(key)
  local children, whole = {}, true
  for _, kind in ipairs(CHILDREN) do
    local set = key .. ':' .. kind[1]
    local count = redis.pcall(kind[2], set)
    if type(count) == 'number' and count > 0 then -- else garbled, or none
      if #children + count > MOST then
        whole = false
      else
        for _, child in ipairs(redis.call(kind[3], set, unpack(kind, 4))) do
          children[#children + 1] = child
        end
      end
    end
  end
  return children, whole
end

local answers = {}
for n, key in ipairs(args.keys) do
  local queue, id = split(key)
  local children, whole = children_of(key)
  local waits = redis.pcall('SCARD', key .. ':dependencies')
  answers[n] = {
    redis.call('EXISTS', key) == 1, queue and outcome_of(queue, id) or '',
    type(waits) == 'number' and waits > 0, whole, children,
  }
end
return answers
