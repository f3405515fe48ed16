-- What a call tells beside its result: {chunk errors, reports, removed jobs, saved jobs}, the last
-- element of every reply.

local chunk_errors, reports, removed_jobs, saved_jobs = {}, {}, {}, {}

local function effects()
  if #chunk_errors == 0 and #reports == 0 and #removed_jobs == 0 and #saved_jobs == 0 then
    return {}
  end
  return {chunk_errors, reports, removed_jobs, saved_jobs}
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
