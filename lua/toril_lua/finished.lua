-- Finished jobs of one outcome in the order in which they finished, after a given one.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {outcome = 'completed' or 'failed', score = text or '', id = text,
--                         before = text or '', limit = 1..100}
--            score and id name the last job seen, which may be gone; '' starts at the oldest.
--            before: only jobs that finished by then, in ms.
-- Returns:   {{id, score, {field, value, ...}}, ...}; the hash is empty where there is none.
--            At most about 1 MiB.
-- Events:    none; nothing is written

local request = cmsgpack.unpack(ARGV[1])
local q, key = KEYS[1], KEYS[1] .. ':' .. request.outcome
local MAX_BYTES = 1048576

-- Whether a sorts after b. Lua's own comparison follows the locale, a sorted set the bytes.
local function sorts_after(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x > y end
  end
  return #a > #b
end

-- The rank of the first member behind (score, id). Many jobs may share one score, so the place
-- among them is searched by halves.
local function rank_after(score, id)
  local low = redis.call('ZCOUNT', key, '-inf', '(' .. score)
  local high = redis.call('ZCOUNT', key, '-inf', score)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if sorts_after(redis.call('ZRANGE', key, middle, middle)[1], id) then
      high = middle
    else
      low = middle + 1
    end
  end
  return low
end

local first = request.score == '' and 0 or rank_after(request.score, request.id)
local last = first + request.limit - 1
if request.before ~= '' then
  last = math.min(last, redis.call('ZCOUNT', key, '-inf', request.before) - 1)
end
local reply, bytes = {}, 0
if last >= first then
  local found = redis.call('ZRANGE', key, first, last, 'WITHSCORES')
  for i = 1, #found, 2 do
    if bytes >= MAX_BYTES then break end
    local hash = redis.pcall('HGETALL', q .. ':' .. found[i])
    if hash.err then hash = {} end
    for _, part in ipairs(hash) do bytes = bytes + #part end
    reply[#reply + 1] = {found[i], found[i + 1], hash}
  end
end
return reply
