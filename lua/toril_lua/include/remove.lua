--- @include "keys"
--- @include "events"
--- @include "effects"
--- @when removed
--- @include "seam"
--- @end
-- Removing a job that has been taken out of the state it was in: chunks, keys, report.

-- want_removed: whether somebody wants to know what the job was like.
local want_removed = false

-- Removes the keys of a job. Returns how many there were.
-- `state` is where it was, in BullMQ's words; `rule` and `plugin` are '' if no rule did it.
local function remove_keys(Q, id, state, cause, rule, plugin)
--- @when removed
  local gone = new_ctx(Q)
  gone.id, gone.key, gone.state, gone.cause, gone.rule = id, Q .. ':' .. id, state, cause, rule
  run_chunks('removed', Q, gone)
--- @end
  if want_removed then
    local fields = redis.pcall('HGETALL', Q .. ':' .. id)
    if not fields.err and #fields > 0 then
      note_removed(Q, id, state, cause, rule, plugin, fields)
    end
  end
  return unlink_job(Q, id)
end

-- Whether a child keeps a living parent waiting. If the parent's children are garbled it may.
local function keeps_waiting(parent_key, key)
  return redis.call('EXISTS', parent_key) == 1
    and redis.pcall('SISMEMBER', parent_key .. ':dependencies', key) ~= 0
end

-- Removes a finished job by a plugin's rule: true, or false and why not. Never changes what becomes
-- of another job: a failed child that keeps its parent waiting stays.
local function remove_finished(Q, id, outcome, rule, plugin, finished_on, announce)
  local key, set = Q .. ':' .. id, Q .. ':' .. outcome
  local score = redis.call('ZSCORE', set, id)
  if not score then return false, 'gone' end
  if tonumber(score) ~= tonumber(finished_on) then return false, 'changed' end
  if redis.call('EXISTS', key .. ':lock') == 1 then return false, 'locked' end
  local parent_key = redis.pcall('HGET', key, 'parentKey') -- a table if the job is garbled
  if type(parent_key) == 'string' and keeps_waiting(parent_key, key) then
    return false, 'blocked'
  end
  redis.call('ZREM', set, id)
  remove_keys(Q, id, outcome, 'rule', rule, plugin)
  if announce then emit_capped(Q, 'removed', 'jobId', id, 'prev', outcome, 'rule', rule) end
  return true
end
