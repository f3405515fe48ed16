--- @include "keys"
--- @include "events"
--- @include "remove-known"
--- @include "effects"
--- @when removed
--- @include "seam"
--- @end
-- Removing jobs: chunks, keys, report. Whoever asks has taken the job out of the state it was in;
-- `remove_finished`, the way of rules, does that itself.

local MAX_NOTED = 1048576 -- bytes of removed jobs in one reply, about

local noted = 0 -- bytes
--- @when removed
local gone -- what the chunks get; one table for all jobs of a call
--- @end

-- Before the keys of a job go: tells the chunks, except those of `knowing`, and notes what it was
-- like. `state` is where it was, in BullMQ's words; `rule` and `plugin` are '' if no rule did it.
local function tell_removal(Q, id, key, state, cause, rule, plugin, knowing)
--- @when removed
  gone = gone or new_ctx(Q)
  gone.q, gone.id, gone.key = Q, id, key
  gone.state, gone.cause, gone.rule = state, cause, rule
  run_chunks('removed', Q, gone, nil, knowing)
--- @end
  if want_removed then
    local fields = redis.pcall('HGETALL', key)
    if not fields.err and #fields > 0 then
      note_removed(Q, id, state, cause, rule, plugin, fields)
      for _, part in ipairs(fields) do noted = noted + #part end
    end
  end
end

-- Whether a child keeps a living parent waiting. If the parent's children are garbled it may.
local function keeps_waiting(parent_key, key)
  return redis.call('EXISTS', parent_key) == 1
    and redis.pcall('SISMEMBER', parent_key .. ':dependencies', key) ~= 0
end

-- Why a rule must not touch a finished job, or nil.
local function objection(Q, job, score, any_locked)
  if not job.fresh then
    if not score then return 'gone' end
    if tonumber(score) ~= tonumber(job.finished_on) then return 'changed' end
  end
  if any_locked and redis.call('EXISTS', Q .. ':' .. job.id .. ':lock') == 1 then
    return 'locked'
  end
  local parent_key = job.parent_key
  if parent_key == false then return nil end
  local key = Q .. ':' .. job.id
  -- A table, if the job is garbled.
  if parent_key == nil then parent_key = redis.pcall('HGET', key, 'parentKey') end
  if type(parent_key) == 'string' and keeps_waiting(parent_key, key) then return 'blocked' end
  return nil
end

-- Which of up to 100 finished jobs, {{id, finished_on, parent_key, fresh}, ...}, none twice, a rule
-- may remove now. parent_key: false if there is none, nil if the caller has not read it. fresh:
-- finished_on is of this call, as the job stands in its set. Returns them, and the others, each
-- with `why`. Never changes what becomes of another job: a failed child that keeps its parent
-- waiting stays.
local function check_finished(Q, outcome, jobs)
  local keys, all_fresh, none_is_child = {}, true, true
  if #jobs == 0 then return {}, {} end
  for n, job in ipairs(jobs) do
    keys[n], all_fresh = Q .. ':' .. job.id .. ':lock', all_fresh and job.fresh
    none_is_child = none_is_child and job.parent_key == false
  end
  local any_locked, scores = redis.call('EXISTS', unpack(keys)) > 0, {}
  if all_fresh and none_is_child and not any_locked then return jobs, {} end -- most are so
  if not all_fresh then
    for n, job in ipairs(jobs) do keys[n] = job.id end
    scores = redis.call('ZMSCORE', Q .. ':' .. outcome, unpack(keys))
  end
  local going, staying = {}, {}
  for n, job in ipairs(jobs) do
    job.why = objection(Q, job, scores[n], any_locked)
    if job.why then
      staying[#staying + 1] = job
    else
      going[#going + 1] = job
    end
  end
  return going, staying
end

-- Removes those of the jobs, as above with `rule` and `known` (the plugin needs not be told of it),
-- that may go. Returns how many have gone, and the others.
local function remove_finished(Q, outcome, jobs, plugin, announce)
  local going, staying = check_finished(Q, outcome, jobs)
  local ids, silent = {}, nobody_listens(plugin)
  for _, job in ipairs(going) do
    if noted > MAX_NOTED then
      job.why = 'budget'
      staying[#staying + 1] = job
    else
      if not (silent and job.known) then
        local key, knowing = Q .. ':' .. job.id, job.known and plugin
        tell_removal(Q, job.id, key, outcome, 'rule', job.rule or '', plugin, knowing)
      end
      ids[#ids + 1] = job.id
    end
  end
  if #ids == 0 then return 0, staying end
  drop_finished(Q, outcome, ids)
  if announce then
    for n, id in ipairs(ids) do
      -- The call has trimmed the stream already.
      emit(Q, 'removed', 'jobId', id, 'prev', outcome, 'rule', going[n].rule or '')
    end
  end
  return #ids, staying
end
