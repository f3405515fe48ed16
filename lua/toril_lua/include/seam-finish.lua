--- @include "seam-remove"
-- Calling the chunks for the jobs that a call has finished (`finished_jobs`).

local function tell_chunks(Q, now, wants_removed)
  want_removed, seam.now = wants_removed, now
  local ctx = new_ctx(Q)
  allow_removals(ctx, true)

  local jobs
  local function listed()
    if jobs then return jobs end
    jobs = {}
    for i = 1, #finished_jobs, 2 do
      local item, stored = finished_jobs[i], finished_jobs[i + 1]
      local id, outcome, more = item[1], item[3], item[6] or NOTHING
      jobs[#jobs + 1] = {
        id = id, key = Q .. ':' .. id, outcome = outcome, cause = more.cause or 'processor',
        final = true, finished_on = now, previous = tonumber(stored[6]),
        parent_key = stored[3] or nil, blocks_parent = finished_blocking[id] or false,
        name = stored[1] or '',
        undecided = more.undecided or false, plans = more.plans,
      }
    end
    return jobs
  end

  if CHUNKS.finished then
    local per_job = {
      'id', 'key', 'outcome', 'cause', 'final', 'finished_on', 'previous', 'parent_key',
      'blocks_parent', 'name', 'undecided',
    }
    for _, job in ipairs(listed()) do
      for _, field in ipairs(per_job) do ctx[field] = job[field] end
      run_chunks('finished', Q, ctx, job.plans)
    end
    for _, field in ipairs(per_job) do ctx[field] = nil end
  end
  if CHUNKS.finished_batch then
    seam.jobs = listed
    ctx.ended = {completed = finishing.ended - finishing.failed, failed = finishing.failed}
    function ctx.planned()
      for i = 1, finishing.planned and #finished_jobs or 0, 2 do
        local more = finished_jobs[i][6] or NOTHING
        if more.undecided or more.plans and more.plans[seam.plugin] ~= nil then return true end
      end
      return false
    end
    run_chunks('finished_batch', Q, ctx)
  end
end
