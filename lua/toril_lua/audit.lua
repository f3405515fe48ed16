-- Looks at jobs for an audit: where each is, and what is stored of it, at one moment.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {ids = up to 20, lists = boolean: look through the lists too, children =
--            number: open children that are looked at}, or {state = key of a list or set, first,
--            last = places in it, at most 250 apart}, or {rests = what follows the queue's key in
--            up to 50 other keys}
-- Returns:   with ids, per id {type of its key, fields, scores, lists, parts, ms until its lock
--            ends, {number of open children, looks at some of them}}: name and value one after the
--            other; of `fields` the large ones are only ''. A look at a child is {key, its
--            parentKey or '', 1 if it is there else 0, 1 if it is completed else 0}.
--            With a state: {number of ids in these places, {id without a hash, ...}}
--            With rests, per key {type, ms until it ends, 1 if its text names a job else 0}
-- Events:    none; nothing is written

local q = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])

local LARGE = {'name', 'data', 'opts', 'returnvalue', 'failedReason'}
local SMALL = {
  'timestamp', 'delay', 'priority', 'processedOn', 'finishedOn', 'atm', 'ats', 'stc', 'parentKey',
  'defa',
}
local SETS = {'completed', 'failed', 'delayed', 'prioritized', 'waiting-children'}
local LISTS = {'active', 'wait', 'paused'}
local PARTS = {'lock', 'logs', 'dependencies', 'processed', 'failed', 'unsuccessful'}

local function type_of(key)
  return redis.call('TYPE', key).ok
end

local function fields_of(key)
  local found = {}
  for _, name in ipairs(LARGE) do
    if redis.call('HEXISTS', key, name) == 1 then
      found[#found + 1], found[#found + 2] = name, ''
    end
  end
  local values = redis.call('HMGET', key, unpack(SMALL))
  for n, name in ipairs(SMALL) do
    if values[n] then found[#found + 1], found[#found + 2] = name, values[n] end
  end
  return found
end

local function scores_of(id)
  local found = {}
  for _, state in ipairs(SETS) do
    local score = redis.pcall('ZSCORE', q .. ':' .. state, id)
    if type(score) == 'string' then found[#found + 1], found[#found + 2] = state, score end
  end
  return found
end

local function lists_of(id)
  local found = {}
  for _, state in ipairs(request.lists and LISTS or {}) do
    local places = redis.pcall('LPOS', q .. ':' .. state, id, 'COUNT', 0)
    if #places > 0 then found[#found + 1], found[#found + 2] = state, #places end
  end
  return found
end

local function parts_of(key)
  local found = {}
  for _, name in ipairs(PARTS) do
    local kind = type_of(key .. ':' .. name)
    if kind ~= 'none' then found[#found + 1], found[#found + 2] = name, kind end
  end
  return found
end

local function look_at_child(child)
  local queue, id = string.match(child, '^(.+):([^:]+)$')
  local parent = redis.pcall('HGET', child, 'parentKey')
  local completed = queue and redis.pcall('ZSCORE', queue .. ':completed', id)
  return {
    child, type(parent) == 'string' and parent or '', redis.call('EXISTS', child),
    type(completed) == 'string' and 1 or 0,
  }
end

-- Only for a job that waits for children.
local function children_of(key)
  local open = redis.pcall('SCARD', key .. ':dependencies')
  if type(open) ~= 'number' then return {0, {}} end
  local looks = {}
  local some = redis.call('SRANDMEMBER', key .. ':dependencies', request.children)
  for n, child in ipairs(some) do looks[n] = look_at_child(child) end
  return {open, looks}
end

local function look(id)
  local key = q .. ':' .. id
  local kind, scores = type_of(key), scores_of(id)
  local waits = redis.pcall('ZSCORE', q .. ':waiting-children', id)
  return {
    kind, kind == 'hash' and fields_of(key) or {}, scores, lists_of(id), parts_of(key),
    redis.call('PTTL', key .. ':lock'), type(waits) == 'string' and children_of(key) or {0, {}},
  }
end

if request.state then
  local key = q .. ':' .. request.state
  local is_list = type_of(key) == 'list'
  local ids = redis.pcall(is_list and 'LRANGE' or 'ZRANGE', key, request.first, request.last)
  local gone = {}
  for _, id in ipairs(ids) do
    -- Very old versions kept markers among the ids; they were never jobs.
    if redis.call('EXISTS', q .. ':' .. id) == 0 and string.sub(id, 1, 2) ~= '0:' then
      gone[#gone + 1] = id
    end
  end
  return {#ids, gone}
end

local looks = {}
for n, rest in ipairs(request.rests or {}) do
  local key = q .. ':' .. rest
  local named = redis.pcall('GET', key)
  local names_job = type(named) == 'string' and redis.call('EXISTS', q .. ':' .. named) or 0
  looks[n] = {type_of(key), redis.call('PTTL', key), names_job}
end
for n, id in ipairs(request.ids or {}) do looks[n] = look(id) end
return looks
