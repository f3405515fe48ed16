-- The rate limit of a queue as full as it can be, for a while.

local EVERYTHING = '9007199254740991' -- as BullMQ writes it

-- Lets no worker begin a job for so many ms, where a rate is limited.
local function hold_back(Q, ms)
  redis.call('SET', Q .. ':limiter', EVERYTHING, 'PX', ms)
end
