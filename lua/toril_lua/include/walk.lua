-- Going through the ids of several sets and lists in slices.

local LISTS = {wait = true, paused = true, active = true}
local MAX_TAKEN, MAX_LOOKS = 25, 200
local DEPTH = 500 -- a list is looked through for so many ids in the time of a look

-- Up to `count` ids behind the first `skip` ones; lists from the tail, where the oldest are.
local function ids_of(Q, name, skip, count)
  if not LISTS[name] then return redis.call('ZRANGE', Q .. ':' .. name, skip, skip + count - 1) end
  local found = redis.call('LRANGE', Q .. ':' .. name, -skip - count, -skip - 1)
  local turned = {}
  for i = #found, 1, -1 do turned[#turned + 1] = found[i] end
  return turned
end

local function drop(Q, name, id)
  if LISTS[name] then return redis.call('LREM', Q .. ':' .. name, -1, id) end
  return redis.call('ZREM', Q .. ':' .. name, id)
end

-- Calls visit(name, id) for the ids of the sets `names` from `position` = {number of the set,
-- ids to skip in it} on, until `limit` were taken. `visit` drops the id from its set and returns
-- true, or leaves it; one at which it fails stays. Returns where to go on, or nil at the end.
local function walk(Q, names, position, limit, visit)
  local taken, looks = 0, 0
  for number = position[1], #names do
    local skip = number == position[1] and position[2] or 0
    local ids = ids_of(Q, names[number], skip, MAX_TAKEN)
    while #ids > 0 do
      for _, id in ipairs(ids) do
        if taken >= math.min(limit, MAX_TAKEN) or looks >= MAX_LOOKS then return {number, skip} end
        looks = looks + 1
        local ok, dropped = pcall(visit, names[number], id)
        if ok and dropped then
          taken = taken + 1
          if LISTS[names[number]] then looks = looks + math.floor(skip / DEPTH) end
        else
          skip = skip + 1
        end
      end
      ids = ids_of(Q, names[number], skip, MAX_TAKEN)
    end
  end
  return nil
end
