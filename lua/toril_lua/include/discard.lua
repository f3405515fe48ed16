--- @include "numbers"
--- @include "deduplication"
--- @include "parent"
--- @include "remove"
-- Removing a job because somebody asked for it, wherever it is.

-- What has to be known of a job before it goes. Read before the first write: where a foreign
-- program garbled the job, it goes all the same.
local function links_of(Q, id)
  local key = Q .. ':' .. id
  local found = redis.pcall('HMGET', key, 'parentKey', 'parent', 'deid', 'rjk')
  if found.err then found = {} end
  return {
    key = key, parent = parent_of(found[1], found[2]), window = found[3], scheduler = found[4],
  }
end

-- Whether a job is the iteration that its scheduler waits for: without it the series would end.
local function is_pending_iteration(Q, id, links)
  local due = links.scheduler and redis.call('ZSCORE', Q .. ':repeat', links.scheduler)
  return due and id == 'repeat:' .. links.scheduler .. ':' .. due
end

-- Removes what is stored of a job that is in no set any more, and ends its deduplication.
-- Returns whether there was anything.
local function discard(Q, id, state, links, cause)
  if links.window then pcall(drop_window, Q, links.window, id) end
  redis.pcall('ZREM', Q .. ':toril:deferred', links.key)
  tell_removal(Q, id, links.key, state, cause, '', '')
  return unlink_jobs(Q, {id}) > 0
end
