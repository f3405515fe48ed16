-- The gate: the only way in which a rule removes jobs. Held jobs stay; nothing goes where a
-- required plugin is missing; where somebody reviews or copies, jobs are handed over first.

-- later: nothing goes in this call, the sweeper sees to it. hand_over: what takes jobs instead of
-- their removal. unheld: splits jobs into those that nobody holds and those that somebody does.
local gate = {later = false, hand_over = nil, unheld = nil}

-- The plugins without which nobody removes a finished job of this queue, and which this process
-- lacks, as text; or nil.
local function missing_plugins()
  local missing = {}
  for name in string.gmatch(ctx.meta('toril.requires.plugins') or '', '[^,]+') do
    if not string.find(ctx.plugins or '', ',' .. name .. ',', 1, true) then
      missing[#missing + 1] = name
    end
  end
  return #missing > 0 and table.concat(missing, ', ') or nil
end

-- Tells in the event stream that so many jobs were removed. One entry for all of them: one for each
-- would push everything else out of the stream.
local function announce(outcome, count)
  if count > 0 then ctx.emit('toril:evicted', {outcome = outcome, count = count}) end
end

-- Tells this plugin's Python, for its counters, how many jobs have gone, by whose word.
local function report_gone(outcome, rule, count)
  local colon = string.find(rule, ':', 1, true)
  local by = colon and string.sub(rule, 1, colon - 1) or rule
  ctx.report({ctx.q, 'removed', outcome, by, count})
end

local function tell_gone(outcome, jobs)
  local rule, count = nil, 0
  for n = 1, #jobs + 1 do
    local job = jobs[n]
    if count > 0 and (not job or job.rule ~= rule) then
      report_gone(outcome, rule, count)
      count = 0
    end
    if job and not job.why then rule, count = job.rule, count + 1 end
  end
end

-- Lets go of jobs, {{id, finished_on, rule, decision, own, parent_key, fresh}, ...}: `rule` is what
-- they go by, in words; `decision` a decision of their own if `own`, else the live rule; `set` the
-- live bucket that they are in; `ceiling`: they go by a ceiling; `unsure`: they may be in a bucket,
-- or have a decision; parent_key and fresh are as in ctx.remove_all. Returns those that stay, each
-- with `why`: what ctx.refused says, 'budget', 'held', or 'later'.
local function let_go(outcome, jobs)
  local staying, refused = {}
  if #jobs == 0 then return staying end
  if ctx.meta('toril.holds.list') then jobs, staying = gate.unheld(outcome, jobs) end
  if gate.later or ctx.meta('toril.requires.plugins') and missing_plugins() then
    for _, job in ipairs(jobs) do job.why = 'later' end
    refused = jobs
  elseif gate.hand_over then
    refused = gate.hand_over(outcome, jobs)
  else
    -- The chunk `removed` finds there what is known of the job. It is not called for those of which
    -- nothing is written down: they follow a live rule without a key or a tombstone, as most do.
    local going, window = {}, ctx.meta('toril.idwindow.ms')
    for _, job in ipairs(jobs) do
      job.known = not (window or job.own or job.set or job.unsure
        or job.decision and job.decision.tombstone)
      if not job.known then going[job.id] = job end
    end
    ctx.seen.going = going
    local each = ctx.announce -- at a finish
    ctx.announce = each and #jobs == 1
    refused = ctx.remove_all(outcome, jobs)
    ctx.seen.going, ctx.announce = nil, each
    if each and #jobs > 1 then announce(outcome, #jobs - #refused) end
    tell_gone(outcome, jobs)
  end
  for _, job in ipairs(refused) do staying[#staying + 1] = job end
  return staying
end
