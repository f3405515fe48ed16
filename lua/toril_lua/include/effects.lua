-- What a call tells beside its result, the last element of every reply: '' for nothing; the
-- reports, packed, if there is nothing else; or {chunk errors, reports, removed jobs, saved jobs}.
-- Each table in a reply costs the server as much as a small command.

local effects_told = {} -- errors, reports, removed, saved: lists, each made for its first entry
local want_removed = false -- whether somebody wants to know what removed jobs were like

local function note(kind, entry)
  local list = effects_told[kind] or {}
  effects_told[kind] = list
  list[#list + 1] = entry
end

local function effects()
  if next(effects_told) == nil then return '' end
  local told = effects_told
  -- The reports, each packed when it was made, as one packed array: plugin, value, plugin, ...
  local reports = told.reports or {}
  local count = 2 * #reports
  local head = count < 16 and string.char(144 + count)
    or string.char(220, math.floor(count / 256), count % 256)
  local packed = head .. table.concat(reports)
  if not (told.errors or told.removed or told.saved) then return packed end
  return {told.errors or {}, packed, told.removed or {}, told.saved or {}}
end

-- Notes a job that goes, for the hooks; `fields` is its hash as HGETALL gives it, read before.
-- `rule` and `plugin` are '' if no rule did it.
local function note_removed(Q, id, state, cause, rule, plugin, fields)
  note('removed', {Q, id, state, cause, rule, plugin, fields})
end

-- Notes a job that was saved although the caller did not ask for it.
local function note_saved(Q, id)
  note('saved', {Q, id, redis.call('HGETALL', Q .. ':' .. id)})
end
