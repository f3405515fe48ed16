--- @include "numbers"
-- What a queue says about itself.

-- Whether nothing may be picked up now: paused, or as many active as its concurrency allows.
-- The arguments are fields of its meta.
local function is_blocked(Q, paused, concurrency)
  if paused then return true end
  return concurrency and redis.call('LLEN', Q .. ':active') >= whole(concurrency)
end

local function blocked_now(Q)
  return is_blocked(Q, unpack(redis.call('HMGET', Q .. ':meta', 'paused', 'concurrency')))
end

-- Whether a job waits for its turn.
local function anything_waits(Q)
  return redis.call('LLEN', Q .. ':wait') > 0 or redis.call('ZCARD', Q .. ':prioritized') > 0
end
