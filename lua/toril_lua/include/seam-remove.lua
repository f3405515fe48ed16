--- @include "seam"
--- @include "remove"
-- ctx.remove and ctx.remove_all: a plugin's own way to remove finished jobs, within its budget.

local MAX_REMOVALS = 100

-- Lets the chunks that get `ctx` remove jobs. Only outcome and rule name the reason.
local function allow_removals(Q, ctx, announce)
  ctx.budget, ctx.announce = MAX_REMOVALS, announce

  -- jobs = {{id, finished_on, parent_key as just read or nil}, ...}; returns those that stay,
  -- {{id, finished_on, why}, ...}.
  function ctx.remove_all(jobs, outcome, rule)
    if outcome ~= 'completed' and outcome ~= 'failed' then
      error('only completed and failed jobs can be removed by a rule')
    end
    local now, later = {}, {}
    for n, job in ipairs(jobs) do
      if n <= ctx.budget then
        now[n] = job
      else
        later[#later + 1] = {job[1], job[2], 'budget'}
      end
    end
    if #now == 0 then return later end
    local refused = remove_finished(Q, now, outcome, rule or '', seam.plugin, ctx.announce)
    ctx.budget = ctx.budget - (#now - #refused)
    for _, job in ipairs(later) do refused[#refused + 1] = job end
    return refused
  end

  -- Returns true, or false and why not.
  function ctx.remove(id, outcome, rule, finished_on)
    local stays = ctx.remove_all({{id, finished_on}}, outcome, rule)[1]
    return not stays, stays and stays[3]
  end
end
