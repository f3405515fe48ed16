-- In which state jobs are, and some of their fields, at one moment.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {ids = up to 100 ids, fields = names of fields wanted}
-- Returns:   per id: {state, 1 if the job's hash exists else 0, field, field, ...};
--            a field that is not there is false
-- Events:    none; nothing is written

local q = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])

-- The order is the contract's. The lists come last among the common ones, as they are searched.
local ZSETS = {'completed', 'failed', 'delayed', 'prioritized'}
local LISTS = {{'active', 'active'}, {'wait', 'waiting'}, {'paused', 'waiting'}}

local function state_of(id)
  for _, name in ipairs(ZSETS) do
    if redis.call('ZSCORE', q .. ':' .. name, id) then return name end
  end
  if redis.call('ZSCORE', q .. ':waiting-children', id) then return 'waiting-children' end
  for _, list in ipairs(LISTS) do
    if redis.call('LPOS', q .. ':' .. list[1], id) then return list[2] end
  end
  return 'unknown'
end

local reply = {}
for i, id in ipairs(request.ids) do
  local key = q .. ':' .. id
  local found = {state_of(id), redis.call('EXISTS', key)}
  if #request.fields > 0 then
    local values = redis.pcall('HMGET', key, unpack(request.fields))
    for n = 1, #request.fields do found[n + 2] = values[n] or false end
  end
  reply[i] = found
end
return reply
