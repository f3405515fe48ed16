-- One page of the jobs of some states, with their hashes.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {states = names, first = index, last = index, ascending = boolean}
--            The states are read as one row, in the order given; first and last are places in it.
--            With ascending, what runs or ran first comes first (lists from the tail).
-- Returns:   {total, next, {{state, id, {field, value, ...}}, ...}, {id without a hash, ...}}
--            At most 100 jobs and about 1 MiB; next is the place at which to go on.
-- Events:    none; nothing is written

local q = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])
local MAX_JOBS, MAX_BYTES = 100, 1048576

local LISTS = {active = {'active'}, waiting = {'wait', 'paused'}}

-- The ids in the places from..to of one key, counted from 0 in reading order.
local function slice(key, is_list, from, to)
  if not is_list then
    return redis.call(request.ascending and 'ZRANGE' or 'ZREVRANGE', key, from, to)
  elseif not request.ascending then
    return redis.call('LRANGE', key, from, to)
  end
  local found = redis.call('LRANGE', key, -to - 1, -from - 1)
  local turned = {}
  for i = #found, 1, -1 do turned[#turned + 1] = found[i] end
  return turned
end

local last = math.min(request.last, request.first + MAX_JOBS - 1)
local place, total, bytes = request.first, 0, 0
local jobs, missing = {}, {}

local function take(state, id)
  local hash = redis.pcall('HGETALL', q .. ':' .. id)
  if hash.err or #hash == 0 then
    -- Very old versions kept markers among the ids; they were never jobs.
    if string.sub(id, 1, 2) ~= '0:' then missing[#missing + 1] = id end
    return
  end
  for _, part in ipairs(hash) do bytes = bytes + #part end
  jobs[#jobs + 1] = {state, id, hash}
end

for _, state in ipairs(request.states) do
  for _, name in ipairs(LISTS[state] or {state}) do
    local key, is_list = q .. ':' .. name, LISTS[state] ~= nil
    local size = redis.call(is_list and 'LLEN' or 'ZCARD', key)
    local from, to = place - total, math.min(last - total, size - 1)
    if from >= 0 and from <= to and bytes < MAX_BYTES then
      for _, id in ipairs(slice(key, is_list, from, to)) do
        if bytes >= MAX_BYTES then break end
        take(state, id)
        place = place + 1
      end
    end
    total = total + size
  end
end

return {total, place, jobs, missing}
