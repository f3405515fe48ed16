--- @include "numbers"
-- A queue's rate limit: how many jobs were picked up in the current span of time.

-- How many jobs it lets through now; sets `limited` if none.
local function rate_limit(Q, max)
  local key = Q .. ':limiter'
  local counted = whole(redis.call('GET', key))
  if counted >= max then
    local left = redis.call('PTTL', key)
    if left > 0 then
      fetched.limited = left
      return 0
    end
    redis.call('DEL', key) -- it has run out, or has no end at all
    counted = 0
  end
  return max - counted
end

local function count_for_rate_limit(Q, picked, duration)
  if picked == 0 then return end
  local key = Q .. ':limiter'
  local counted = redis.call('INCRBY', key, picked)
  if counted == picked or redis.call('PTTL', key) == -1 then
    redis.call('PEXPIRE', key, math.floor(duration))
  end
end
