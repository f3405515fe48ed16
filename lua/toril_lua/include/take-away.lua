--- @include "discard"
--- @include "enqueue"
--- @include "lists"
-- Removing one job, wherever it is, with its event.

local SETS = {'completed', 'waiting-children', 'delayed', 'failed', 'prioritized'}
local LISTS = {'wait', 'paused', 'active'}

local function take_out(Q, id)
  for _, name in ipairs(SETS) do
    if redis.call('ZREM', Q .. ':' .. name, id) == 1 then return name end
  end
  for _, name in ipairs(LISTS) do
    if take_from_list(Q .. ':' .. name, id) then return name end
  end
  return 'unknown'
end

-- Returns whether there was a job. Its id is in no set any more in any case.
local function take_away(Q, id, links, cause)
  local state = take_out(Q, id)
  local existed = discard(Q, id, state, links, cause)
  if existed then emit_capped(Q, 'removed', 'jobId', id, 'prev', state) end
  if state == 'active' then
    redis.call('DEL', links.key .. ':lock')
    wake(Q)
  end
  return existed
end
