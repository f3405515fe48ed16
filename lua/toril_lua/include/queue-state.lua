--- @include "numbers"
-- What a queue says about itself.

-- Whether nothing may be picked up now: paused, or as many active as its concurrency allows.
-- meta: its fields `paused` and `concurrency`.
local function is_blocked(Q, meta)
  if meta[1] then return true end
  return meta[2] ~= false and redis.call('LLEN', Q .. ':active') >= whole(meta[2])
end

local function blocked(Q)
  return is_blocked(Q, redis.call('HMGET', Q .. ':meta', 'paused', 'concurrency'))
end

-- Whether a job waits for its turn.
local function anything_waits(Q)
  return redis.call('LLEN', Q .. ':wait') > 0 or redis.call('ZCARD', Q .. ':prioritized') > 0
end
