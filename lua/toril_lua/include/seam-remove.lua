--- @include "seam"
--- @include "remove"
-- ctx.remove: a plugin's own way to remove a finished job, within its budget.

local MAX_REMOVALS = 100

-- Lets the chunks that get `ctx` remove jobs. Only outcome and rule name the reason.
local function allow_removals(Q, ctx, announce)
  ctx.budget, ctx.announce = MAX_REMOVALS, announce
  ctx.remove = function(id, outcome, rule, finished_on)
    if outcome ~= 'completed' and outcome ~= 'failed' then
      error('only completed and failed jobs can be removed by a rule')
    end
    if ctx.budget <= 0 then return false, 'budget' end
    local done, why =
      remove_finished(Q, id, outcome, rule or '', seam.plugin, finished_on, ctx.announce)
    if done then ctx.budget = ctx.budget - 1 end
    return done, why
  end
end
