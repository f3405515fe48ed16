--- @include "effects"
-- Asking the looks of plugins whether their chunks have anything to do, before anything is made for
-- these: see `finishing` and `finished_jobs`.

-- Returns whether a chunk may have something to do, and what the looks leave to their chunks. None
-- is asked where a plan is missing: its plugin could not say it.
local function ask_looks(Q, meta, now, wants_removed)
  local awake, all_seen, plugin = not MAY_SLEEP, {}, nil
  for i = 1, finishing.planned and #finished_jobs or 0, 2 do
    local more = finished_jobs[i][6]
    if more and more.undecided then return true, all_seen end
  end

  -- Of the jobs that ended so their ids and names, and, by their numbers, what the plugin planned
  -- for them, and the keys of their parents.
  local function list(outcome)
    local ids, names, plans, parents = {}, {}, {}, {}
    for i = 1, #finished_jobs, 2 do
      local item, stored = finished_jobs[i], finished_jobs[i + 1]
      if item[3] == outcome then
        local n = #ids + 1
        ids[n], names[n], parents[n] = item[1], stored[1], stored[3] or nil
        if item[6] and item[6].plans then plans[n] = item[6].plans[plugin] end
      end
    end
    return ids, names, plans, parents
  end

  local function remove(outcome, ids, rule, value)
--- @local "remove-known"
    return #ids <= MOST_KNOWN and remove_known(Q, outcome, ids, plugin, rule, #ids == 1, value)
  end

  want_removed = wants_removed
  local ctx = {
    q = Q, now = now, fields = meta, planned = finishing.planned or false, list = list,
    ended = {completed = finishing.ended - finishing.failed, failed = finishing.failed},
    remove_known = remove, seen = {},
  }
  for _, look in ipairs(looks_of_plugins()) do
    plugin = look[1]
    ctx.seen = all_seen[plugin] or {}
    all_seen[plugin] = ctx.seen
    local looked, found = pcall(look[2], ctx)
    awake = awake or found or not looked
  end
  return awake, all_seen
end
