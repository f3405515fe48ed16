-- In which state jobs are, and some of their fields, at one moment.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {ids = up to 100 ids, fields = names of fields wanted}
--                         ended = boolean: only whether they have ended is asked
-- Returns:   per id: {state, 1 if the job's hash exists else 0, field, field, ...};
--            a field that is not there is false. For as many ids, in order, as can be looked for
--            in lists of some 100,000 places, but at least one.
-- Events:    none; nothing is written
--
-- Of a list of more than 100,000 ids only so many at its ends are looked through. A job that
-- is in none of the other places and exists is then in the middle: of `active` if it is locked,
-- else of `wait`.

local q = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])

local MAX_COMPARED, FROM_EACH_END = 100000, 50000
local compared = 0 -- ids in lists that this call has looked through

-- The order is the contract's. The lists come last among the common ones, as they are searched.
local ZSETS = {'completed', 'failed', 'delayed', 'prioritized'}
local LISTS = {{'active', 'active'}, {'wait', 'waiting'}, {'paused', 'waiting'}}

-- Whether the id is in a list; 'unsure' if the list is too long to tell.
local function is_in(list, id)
  local key = q .. ':' .. list
  local size = redis.call('LLEN', key)
  compared = compared + math.min(size, 2 * FROM_EACH_END)
  if size <= 2 * FROM_EACH_END then return redis.call('LPOS', key, id) ~= false end
  return redis.call('LPOS', key, id, 'RANK', -1, 'MAXLEN', FROM_EACH_END) ~= false
    or redis.call('LPOS', key, id, 'MAXLEN', FROM_EACH_END) ~= false
    or 'unsure'
end

-- Which of the long lists a job is in that is near no end of any.
local function guess(id, unsure)
  local key = q .. ':' .. id
  local named = redis.pcall('HEXISTS', key, 'name')
  if named ~= 1 then return 'unknown' end
  local locked = redis.call('EXISTS', key .. ':lock') == 1
  if unsure.active and (locked or not unsure.waiting) then return 'active' end
  return unsure.waiting and not locked and 'waiting' or 'unknown'
end

local function state_of(id)
  for _, name in ipairs(ZSETS) do
    if redis.call('ZSCORE', q .. ':' .. name, id) then return name end
  end
  if redis.call('ZSCORE', q .. ':waiting-children', id) then return 'waiting-children' end
  if request.ended then return 'unknown' end
  local unsure = {}
  for _, list in ipairs(LISTS) do
    local found = is_in(list[1], id)
    if found == true then return list[2] end
    if found then unsure[list[2]] = true end
  end
  return next(unsure) and guess(id, unsure) or 'unknown'
end

local reply = {}
for i, id in ipairs(request.ids) do
  if compared > MAX_COMPARED then break end
  local key = q .. ':' .. id
  local found = {state_of(id), redis.call('EXISTS', key)}
  if #request.fields > 0 then
    local values = redis.pcall('HMGET', key, unpack(request.fields))
    for n = 1, #request.fields do found[n + 2] = values[n] or false end
  end
  reply[i] = found
end
return reply
