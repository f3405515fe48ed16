-- What was said for a job itself, as it is stored with it.

-- What Toril stored with a job; of a schedule's run it is among the options.
local function stored_by_toril(field, opts)
  local among_opts = not field and string.find(opts or '', '"toril"', 1, true)
  if not field and not among_opts then return {} end
  local ok, own = pcall(cjson.decode, among_opts and opts or field)
  if ok and among_opts and type(own) == 'table' then own = own.toril end
  return ok and type(own) == 'table' and own or {}
end

-- The values of all levels that speak about this end of the job, most specific first: {{l = level,
-- v = {outcome -> what}, s = source, t = when in ms}, ...}.
local function said_about(own, outcome)
  local said, speaking = type(own.said) == 'table' and own.said.retention, {}
  for _, each in ipairs(type(said) == 'table' and said or {}) do
    local value = type(each) == 'table' and each.v
    if type(value) == 'table' and type(value[outcome]) == 'table' then
      speaking[#speaking + 1] = each
    end
  end
  return speaking
end

-- What BullMQ's own option says; nil: nothing, or what is for foreign workers only, as nobody said
-- it.
local function option_about(own, opts, outcome)
  local option = outcome == 'completed' and 'removeOnComplete' or 'removeOnFail'
  if not string.find(opts or '', option, 1, true) then return nil end
  local field = type(own.plugins) == 'table' and own.plugins.persistence
  local told = type(field) == 'table' and field.told
  for _, each in ipairs(type(told) == 'table' and told or {}) do
    if each == outcome then return nil end
  end
  local ok, stored = pcall(cjson.decode, opts)
  local value = nil
  if ok and type(stored) == 'table' then value = stored[option] end
  local kind = type(value)
  if kind == 'boolean' or kind == 'number' or kind == 'table' then return value, option end
  return nil
end
