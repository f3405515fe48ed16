-- Holding and releasing finished jobs; stands below holds.lua, gate.lua and indexes.lua. A held job
-- has the score HELD in its finished set, and in `own`; about its removal nothing is decided until
-- it is released: then it is asked about anew.

-- Takes a finished job out of everybody's reach.
local function hold_finished(id, outcome)
  forget(id, outcome)
  uncount_live(id, outcome)
  protect(id, outcome, HELD)
  redis.call('ZADD', finished_key(outcome), 'XX', HELD, id)
  ctx.report({ctx.q, 'parked', outcome, 'held', 1})
end

-- Splits jobs, {{id, finished_on, ...}, ...}, that are to go into those that nobody holds and those
-- that somebody does, which are held from now on and get `why`.
function gate.unheld(outcome, jobs)
  local free, held, ids = {}, {}, {}
  for n, job in ipairs(jobs) do ids[n] = job.id end
  read_holds(ids)
  for _, job in ipairs(jobs) do
    if job.finished_on == HELD or held_by(job.id) then
      if job.finished_on ~= HELD then hold_finished(job.id, outcome) end
      job.why = 'held'
      held[#held + 1] = job
    else
      free[#free + 1] = job
    end
  end
  return free, held
end
