--- @include "keys"
--- @include "events"
--- @include "effects"
-- Removing finished jobs of which the caller knows all that is to be known.

local MOST_KNOWN = 100

local function check_outcome(outcome)
  if outcome ~= 'completed' and outcome ~= 'failed' then
    error('a rule touches only completed and failed jobs')
  end
end

-- Whether nobody wants to hear of the removal of a job of which this plugin knows.
local function nobody_listens(plugin)
  if want_removed then return false end
--- @when removed
  if HEAR_OF_REMOVALS ~= ',' and HEAR_OF_REMOVALS ~= ',' .. plugin .. ',' then return false end
--- @end
  return true
end

-- Takes finished jobs out of their set, with all their keys.
local function drop_finished(Q, outcome, ids)
  redis.call('ZREM', Q .. ':' .. outcome, unpack(ids))
  unlink_jobs(Q, ids)
end

-- Removes finished jobs by their ids, up to 100: jobs that were found in their set in this call,
-- are no children, and of which chunks of `plugin` need not be told. Returns true; or false, and
-- nothing has happened, where one is locked or somebody wants to hear of them one by one. `value`:
-- a report, or nil.
local function remove_known(Q, outcome, ids, plugin, rule, announce, value)
  check_outcome(outcome)
  local locks = {}
  for n = 1, #ids do locks[n] = Q .. ':' .. ids[n] .. ':lock' end
  if not nobody_listens(plugin) or redis.call('EXISTS', unpack(locks)) > 0 then return false end
  drop_finished(Q, outcome, ids)
  for n = 1, announce and #ids or 0 do
    emit(Q, 'removed', 'jobId', ids[n], 'prev', outcome, 'rule', rule)
  end
  if value ~= nil then note('reports', cmsgpack.pack(plugin, value)) end
  return true
end
