--- @include "enqueue"
-- Another attempt, at once or later, or none at all: the job goes back to where it came from. Made
-- when the first such job of a call is met.

local function put_off(Q, item, key, stored)
  local id, kind, text, more = item[1], item[3], item[4], item[6] or NOTHING
  local priority = whole(redis.call('HGET', key, 'priority'))
  if text then redis.call('HSET', key, 'failedReason', text) end
  if more.stack then redis.call('HSET', key, 'stacktrace', more.stack) end
  if kind ~= 'wait' and not more.skip then
    redis.call('HSET', key, 'atm', whole(stored[2]) + 1)
  end
  if kind == 'delay' then
    redis.call('HSET', key, 'delay', int(more.delay))
    push_delayed(Q, id, finishing.now + more.delay)
    mark_delayed(Q)
    return 0
  end
  if kind == 'retry' then
    push(Q, id, priority, more.lifo)
  else
    push_front(Q, id, priority)
  end
  if kind == 'wait' and more.hold then
    -- A handler said that no job shall begin for so many ms.
--- @local "hold"
    hold_back(Q, more.hold)
    finishing.held = true
  end
  emit_capped(Q, 'waiting', 'jobId', id, 'prev', 'active')
  finishing.pushed = true
  return 0
end
