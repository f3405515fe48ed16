--- @include "numbers"
-- A tick that has been executed already. Its jobs are those of the ids that its lock still holds.

local function held_again(Q, ids, token)
  local jobs = {}
  for _, id in ipairs(ids) do
    local key = Q .. ':' .. id
    if redis.call('GET', key .. ':lock') == token then
      local hash = redis.call('HGETALL', key)
      hash[#hash + 1] = 'ats' -- as it was before; the later of two entries counts
      hash[#hash + 1] = int(whole(redis.call('HGET', key, 'ats')) - 1)
      jobs[#jobs + 1] = id
      jobs[#jobs + 1] = hash
    end
  end
  return jobs
end
