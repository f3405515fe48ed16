-- Which holds of the queue a job matches; stands below base.lua. `toril.holds.list` is JSON:
-- [{id, name, data = [[[step, ...], value], ...], until (ms), why, who}, ...]; all conditions of a
-- hold apply, and one whose `until` has passed holds nothing.

-- The holds by the condition that tells most: {ids = {id = holds}, names = {name = holds},
-- fields = {path = {steps, values = {value = holds}}}, ends = when the next of them ends}.
local function indexed_holds(text)
  local index = {ids = {}, names = {}, fields = {}}
  local function put(place, key, hold)
    place[key] = place[key] or {}
    table.insert(place[key], hold)
  end
  local ok, listed = pcall(cjson.decode, text)
  if not ok or type(listed) ~= 'table' then
    error('the holds of the queue cannot be read')
  end
  for _, hold in ipairs(listed) do
    local ends = hold['until'] or math.huge
    if ends > ctx.now then
      index.ends = math.min(ends, index.ends or ends)
      if hold.id then
        put(index.ids, hold.id, hold)
      elseif hold.data then
        local steps, value = unpack(hold.data[1])
        local path = table.concat(steps, '.')
        index.fields[path] = index.fields[path] or {steps = steps, values = {}}
        put(index.fields[path].values, value, hold)
      else
        put(index.names, hold.name, hold)
      end
    end
  end
  return index
end

local function field_of(data, steps)
  for _, step in ipairs(steps) do
    if type(data) ~= 'table' then return nil end
    data = data[step]
  end
  return data
end

-- Made once a call and queue; nil if there are no holds.
local function holds_of_queue()
  local text = ctx.meta('toril.holds.list')
  if not text then return nil end
  local known = ctx.seen.holds
  if not known or known.q ~= ctx.q then
    known = {q = ctx.q, index = indexed_holds(text)}
    ctx.seen.holds = known
  end
  return known.index
end

-- When the next hold ends, or nil.
local function next_end()
  local index = holds_of_queue()
  return index and index.ends ~= math.huge and index.ends or nil
end

-- The holds, {{why, who, until, ...}, ...}, that keep this job; nil if there are none.
local function held_by(id)
  local index, found, job = holds_of_queue(), nil, nil
  if not index then return nil end
  local function read()
    if job then return job end
    local stored = redis.pcall('HMGET', ctx.q .. ':' .. id, 'name', 'data')
    if stored.err then stored = {} end
    local ok, data = pcall(cjson.decode, stored[2] or 'null')
    job = {name = stored[1], data = ok and data or nil}
    return job
  end
  local function add(holds)
    for _, hold in ipairs(holds or {}) do
      local applies = not hold.name or hold.name == read().name
      for _, condition in ipairs(hold.data or {}) do
        applies = applies and field_of(read().data, condition[1]) == condition[2]
      end
      if applies then
        found = found or {}
        found[#found + 1] = hold
      end
    end
  end
  add(index.ids[id])
  if next(index.names) then add(index.names[read().name or '']) end
  for _, field in pairs(index.fields) do
    local value = field_of(read().data, field.steps)
    if value ~= nil then add(field.values[value]) end
  end
  return found
end
