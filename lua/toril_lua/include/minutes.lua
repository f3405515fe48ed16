--- @include "numbers"
-- How many jobs ended in each minute, as BullMQ keeps it: a hash with the count and the state at
-- the last new minute, and a list with one number per minute since, the newest at the head.

-- `ends` jobs ended with `outcome` now; the numbers of `most` minutes are kept. The sum is the same
-- as if they were told one by one.
local function count_ends(Q, outcome, ends, now, most)
  local key = Q .. ':metrics:' .. outcome
  local before = redis.call('HINCRBY', key, 'count', ends) - ends
  local previous = redis.call('HMGET', key, 'prevTS', 'prevCount')
  local since = tonumber(previous[1])
  if not since then
    redis.call('HSET', key, 'prevTS', now, 'prevCount', 0)
    return
  end
  local minutes = math.min(math.floor(now / 60000) - math.floor(since / 60000), most)
  if minutes <= 0 then return end
  local points = {int(before - whole(previous[2]))}
  for i = 2, minutes do points[i] = '0' end
  for first = 1, minutes, 1000 do
    redis.call('LPUSH', key .. ':data', unpack(points, first, math.min(first + 999, minutes)))
  end
  redis.call('LTRIM', key .. ':data', 0, most - 1)
  redis.call('HSET', key, 'prevTS', now, 'prevCount', before)
end
