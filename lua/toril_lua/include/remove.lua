--- @include "keys"
--- @include "events"
--- @include "effects"
--- @when removed
--- @include "seam"
--- @end
-- Removing a job that has been taken out of the state it was in: chunks, keys, report.

-- want_removed: whether somebody wants to know what the job was like.
local want_removed = false
--- @when removed
local gone -- what the chunks get; one table for all jobs of a call
--- @end

-- Before the keys of a job go: tells the chunks, and notes what it was like. `state` is where it was,
-- in BullMQ's words; `rule` and `plugin` are '' if no rule did it.
local function tell_removal(Q, id, state, cause, rule, plugin)
--- @when removed
  gone = gone or new_ctx(Q)
  gone.q, gone.id, gone.key = Q, id, Q .. ':' .. id
  gone.state, gone.cause, gone.rule = state, cause, rule
  run_chunks('removed', Q, gone)
--- @end
  if want_removed then
    local fields = redis.pcall('HGETALL', Q .. ':' .. id)
    if not fields.err and #fields > 0 then
      note_removed(Q, id, state, cause, rule, plugin, fields)
    end
  end
end

-- Whether a child keeps a living parent waiting. If the parent's children are garbled it may.
local function keeps_waiting(parent_key, key)
  return redis.call('EXISTS', parent_key) == 1
    and redis.pcall('SISMEMBER', parent_key .. ':dependencies', key) ~= 0
end

-- Why a finished job must not be removed by a rule, or nil.
local function objection(Q, job, score, any_locked)
  local key, parent_key = Q .. ':' .. job[1], job[3]
  if not score then return 'gone' end
  if tonumber(score) ~= tonumber(job[2]) then return 'changed' end
  if any_locked and redis.call('EXISTS', key .. ':lock') == 1 then return 'locked' end
  -- A table, if the job is garbled.
  if parent_key == nil then parent_key = redis.pcall('HGET', key, 'parentKey') end
  if type(parent_key) == 'string' and keeps_waiting(parent_key, key) then return 'blocked' end
  return nil
end

-- Removes up to 100 finished jobs, {{id, finished_on, parent_key}, ...}, by a plugin's rule; parent_key:
-- false if there is none, nil if the caller has not read it. Returns those that must stay,
-- {{id, finished_on, why}, ...}. Never changes what becomes of another job: a failed child
-- that keeps its parent waiting stays.
local function remove_finished(Q, jobs, outcome, rule, plugin, announce)
  local ids, locks, refused, removed = {}, {}, {}, {}
  for n, job in ipairs(jobs) do
    ids[n], locks[n] = job[1], Q .. ':' .. job[1] .. ':lock'
  end
  local scores = redis.call('ZMSCORE', Q .. ':' .. outcome, unpack(ids))
  local any_locked = redis.call('EXISTS', unpack(locks)) > 0
  for n, id in ipairs(ids) do
    local why = objection(Q, jobs[n], scores[n], any_locked)
    if why then
      refused[#refused + 1] = {id, jobs[n][2], why}
    else
      removed[#removed + 1] = id
    end
  end
  if #removed == 0 then return refused end
  redis.call('ZREM', Q .. ':' .. outcome, unpack(removed))
  for _, id in ipairs(removed) do tell_removal(Q, id, outcome, 'rule', rule, plugin) end
  unlink_jobs(Q, removed)
  if announce then
    for _, id in ipairs(removed) do
      emit_capped(Q, 'removed', 'jobId', id, 'prev', outcome, 'rule', rule)
    end
  end
  return refused
end
