--- @include "seam"
-- What a plugin may do to finished jobs by a rule of its own: remove them within a budget, and
-- empty parts of them.

local MAX_REMOVALS = 100

-- Made when a chunk asks for it first.
local function add_removals(ctx)
--- @local "remove"
--- @local "no-data"
  local Q = ctx.q
  local STRIPPED_FIELDS = {
    data = true, returnvalue = true, failedReason = true, stacktrace = true, progress = true,
  }
  local STRIPPED_KEYS = {logs = true, processed = true, failed = true}

  -- Data that was always empty stays as it is.
  local function take_data(key)
    local size = redis.call('HSTRLEN', key, 'data')
    local data = size <= 4 and redis.call('HGET', key, 'data')
    if data ~= '{}' and data ~= 'null' then redis.call('HSET', key, 'data', NO_DATA) end
  end

  -- Overwrites `fields`, {name = text, or false: it goes}, and removes `keys`, {'logs', ...}.
  local function strip_job(key, fields, keys)
    for field, value in pairs(fields) do
      if not STRIPPED_FIELDS[field] then error('not a field that can be emptied: ' .. field) end
      if value then
        redis.call('HSET', key, field, value)
      elseif field == 'data' then
        take_data(key)
      else
        redis.call('HDEL', key, field)
      end
    end
    for _, suffix in ipairs(keys) do
      if not STRIPPED_KEYS[suffix] then error('not a key that can be emptied: ' .. suffix) end
      redis.call('UNLINK', key .. ':' .. suffix)
    end
  end

  -- Those of the finished jobs, {{id, finished_on, parent_key}, ...}, that a rule must not touch
  -- now, each with `why`. At most 100.
  function ctx.refused(outcome, jobs)
    check_outcome(outcome)
    local _, staying = check_finished(Q, outcome, jobs)
    return staying
  end

  -- Removes finished jobs, {{id, finished_on, rule, parent_key, fresh, known}, ...}. Returns those
  -- that stay, each with `why`.
  function ctx.remove_all(outcome, jobs)
    check_outcome(outcome)
    local now, later = jobs, nil
    if #jobs > ctx.budget then
      now, later = {}, {}
      for n, job in ipairs(jobs) do
        if n <= ctx.budget then
          now[n] = job
        else
          job.why = 'budget'
          later[#later + 1] = job
        end
      end
    end
    local count, staying = remove_finished(Q, outcome, now, seam.plugin, ctx.announce)
    ctx.budget = noted > MAX_NOTED and 0 or ctx.budget - count
    for _, job in ipairs(later or {}) do staying[#staying + 1] = job end
    return staying
  end

  -- Removes finished jobs by their ids, all or none: jobs that are known to be where they were
  -- found in this call, to be no children, and of which this plugin's own chunk `removed` need not
  -- be told. Returns whether they have gone; if not, the caller looks at each.
  function ctx.remove_known(outcome, ids, rule)
    check_outcome(outcome)
    if #ids > ctx.budget then return false end
    local gone = #ids == 0
      or remove_known(Q, outcome, ids, seam.plugin, rule, ctx.announce)
    if gone then ctx.budget = ctx.budget - #ids end
    return gone
  end

  -- Removes one. Returns true, or false and why not.
  function ctx.remove(id, outcome, rule, finished_on)
    local stays = ctx.remove_all(outcome, {{id = id, finished_on = finished_on, rule = rule}})[1]
    return not stays, stays and stays.why
  end

  -- Empties parts of a finished job. Returns true, or false and why not.
  function ctx.strip(outcome, id, finished_on, fields, keys)
    local why = ctx.refused(outcome, {{id = id, finished_on = finished_on, parent_key = false}})[1]
    if why then return false, why.why end
    strip_job(Q .. ':' .. id, fields, keys)
    return true
  end
end

-- Lets the chunks that get `ctx` do this to jobs of its queue.
local function allow_removals(ctx, announce)
  ctx.budget, ctx.announce, seam.add_removals = MAX_REMOVALS, announce, add_removals
end
