-- Which holds of the queue a job matches; stands below base.lua. `toril.holds.list` is JSON:
-- [{id, name, data = [[[step, ...], value], ...], until (ms), why, who}, ...]; all conditions of a
-- hold apply, and one whose `until` has passed holds nothing. Those for one id are not in it but in
-- `toril.holds.id.<id>`, so that a thousand of them cost no more than one; the list is there as
-- long as there are any holds. `toril.holds.ends`: when holds end, ascending.

-- The holds in such a text that have not ended.
local function standing_holds(text)
  local ok, listed = pcall(cjson.decode, text)
  if not ok or type(listed) ~= 'table' then
    error('the holds of the queue cannot be read')
  end
  local standing = {}
  for _, hold in ipairs(listed) do
    if (hold['until'] or math.huge) > ctx.now then standing[#standing + 1] = hold end
  end
  return standing
end

-- The holds that are not for one id, by the condition that tells most: {names = {name = holds},
-- fields = {path = {steps, values = {value = holds}}}}.
local function indexed_holds(text)
  local index = {names = {}, fields = {}}
  local function put(place, key, hold)
    place[key] = place[key] or {}
    table.insert(place[key], hold)
  end
  for _, hold in ipairs(standing_holds(text)) do
    if hold.data then
      local steps, value = unpack(hold.data[1])
      local path = table.concat(steps, '.')
      index.fields[path] = index.fields[path] or {steps = steps, values = {}}
      put(index.fields[path].values, value, hold)
    else
      put(index.names, hold.name, hold)
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

-- What this call knows of the queue's holds, {q, index, of_id = {id = holds}}; nil: there are none.
local function known_holds()
  local text = ctx.meta('toril.holds.list')
  if not text then return nil end
  local known = ctx.seen.holds
  if not known or known.q ~= ctx.q then
    known = {q = ctx.q, index = indexed_holds(text), of_id = {}}
    ctx.seen.holds = known
  end
  return known
end

-- Reads the holds for these ids in one go.
local function read_holds(ids)
  local known, fields = known_holds(), {}
  if not known or #ids == 0 then return end
  for n, id in ipairs(ids) do fields[n] = 'toril.holds.id.' .. id end
  local texts = redis.call('HMGET', ctx.q .. ':meta', unpack(fields))
  for n, id in ipairs(ids) do known.of_id[id] = texts[n] and standing_holds(texts[n]) or {} end
end

-- When the next hold ends, or nil.
local function next_end()
  for ends in string.gmatch(ctx.meta('toril.holds.ends') or '', '%d+') do
    if tonumber(ends) > ctx.now then return tonumber(ends) end
  end
  return nil
end

-- The holds, {{why, who, until, ...}, ...}, that keep this job; nil if there are none.
local function held_by(id)
  local known, found, job = known_holds(), nil, nil
  if not known then return nil end
  if not known.of_id[id] then read_holds({id}) end
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
  local index = known.index
  add(known.of_id[id])
  if next(index.names) then add(index.names[read().name or '']) end
  for _, field in pairs(index.fields) do
    local value = field_of(read().data, field.steps)
    if value ~= nil then add(field.values[value]) end
  end
  return found
end
