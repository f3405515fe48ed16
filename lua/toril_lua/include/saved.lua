--- @when saved
--- @include "seam"
-- Tells the chunks of a job that was saved: {name, parent_key, is_parent}.

local function tell_saved(Q, id, job)
  local ctx = new_ctx(Q)
  ctx.id, ctx.key, ctx.name = id, Q .. ':' .. id, job.name
  ctx.parent_key, ctx.is_parent = job.parent_key, job.is_parent or false
  run_chunks('saved', Q, ctx)
end
--- @end
