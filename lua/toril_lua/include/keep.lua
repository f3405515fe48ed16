--- @include "kept"
--- @include "seam"
-- Asking the chunks about a job that somebody wants to remove, before anything is written for it.

local MAX_REASONS, LONGEST_REASON = 20, 500

-- The outcome of the jobs in a set, or nil if they have not finished.
local function outcome_in(name)
  return (name == 'completed' or name == 'failed') and name or nil
end

-- The outcome of a job, or nil if it has not finished.
local function outcome_of(Q, id)
  for _, outcome in ipairs({'completed', 'failed'}) do
    if redis.call('ZSCORE', Q .. ':' .. outcome, id) then return outcome end
  end
  return nil
end

-- Whether a plugin keeps the job. `outcome`: completed or failed if it has finished, else nil.
-- A plugin whose chunk breaks keeps it, too: nobody knows what it would have said.
local function is_kept(Q, id, outcome, cause)
  local ctx, before = new_ctx(Q), #kept
  local function keep(plugin, reason)
    if #kept - before < MAX_REASONS then
      kept[#kept + 1] = {Q, id, plugin, string.sub(tostring(reason), 1, LONGEST_REASON)}
    end
  end
  ctx.id, ctx.key, ctx.outcome, ctx.cause = id, Q .. ':' .. id, outcome, cause
  ctx.keep = function(reason) keep(seam.plugin, reason) end
  for _, plugin in ipairs(run_chunks('removing', Q, ctx)) do keep(plugin, 'its Lua broke') end
  return #kept > before
end
