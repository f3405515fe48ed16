-- What a call tells beside its result, the last element of every reply: '' for nothing; the
-- reports, packed, if there is nothing else; or {chunk errors, reports, removed jobs, saved jobs}.
-- Each table in a reply costs the server as much as a small command.

local chunk_errors, reports, removed_jobs, saved_jobs = {}, {}, {}, {}
local want_removed = false -- whether somebody wants to know what removed jobs were like

local function effects()
  local lone = #chunk_errors == 0 and #removed_jobs == 0 and #saved_jobs == 0
  if lone and #reports == 0 then return '' end
  -- The reports, each packed when it was made, as one packed array: plugin, value, plugin, ...
  local count = 2 * #reports
  local head = count < 16 and string.char(144 + count)
    or string.char(220, math.floor(count / 256), count % 256)
  local packed = head .. table.concat(reports)
  return lone and packed or {chunk_errors, packed, removed_jobs, saved_jobs}
end

-- Notes a job that goes, for the hooks; `fields` is its hash as HGETALL gives it, read before.
-- `rule` and `plugin` are '' if no rule did it.
local function note_removed(Q, id, state, cause, rule, plugin, fields)
  removed_jobs[#removed_jobs + 1] = {Q, id, state, cause, rule, plugin, fields}
end

-- Notes a job that was saved although the caller did not ask for it.
local function note_saved(Q, id)
  saved_jobs[#saved_jobs + 1] = {Q, id, redis.call('HGETALL', Q .. ':' .. id)}
end
