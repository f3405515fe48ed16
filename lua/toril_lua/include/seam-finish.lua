--- @include "seam-remove"
-- Calling the chunks for the jobs that a call has finished (`finished_jobs`).

local function tell_chunks(Q, now, wants_removed)
  want_removed = wants_removed
  seam.now = now
  local ctx = new_ctx(Q)
  allow_removals(ctx, true)
  if CHUNKS.finished then
    local per_job = {
      'id', 'key', 'outcome', 'cause', 'final', 'finished_on', 'previous', 'parent_key',
      'blocks_parent', 'name', 'undecided',
    }
    for _, job in ipairs(finished_jobs) do
      for _, field in ipairs(per_job) do ctx[field] = job[field] end
      run_chunks('finished', Q, ctx, job.plans)
    end
    for _, field in ipairs(per_job) do ctx[field] = nil end
  end
  if CHUNKS.finished_batch and #finished_jobs > 0 then
    ctx.jobs = finished_jobs
    run_chunks('finished_batch', Q, ctx)
  end
end
