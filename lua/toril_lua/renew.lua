-- Renews the locks of up to 250 jobs.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {jobs = {{id, token, ms or nil}, ...}, lock (ms)}
-- Returns:   the ids whose lock is gone or another's
-- Events:    none

local Q = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])

local locks = {}
for i, job in ipairs(request.jobs) do locks[i] = Q .. ':' .. job[1] .. ':lock' end
local tokens = redis.call('MGET', unpack(locks))
local held, lost = {}, {}
for i, job in ipairs(request.jobs) do
  if tokens[i] == job[2] then
    -- Not SET: a full server would refuse it, and all running jobs would run twice.
    redis.call('PEXPIRE', locks[i], job[3] or request.lock)
    held[#held + 1] = job[1]
  else
    lost[#lost + 1] = job[1]
  end
end
if #held > 0 then redis.call('SREM', Q .. ':stalled', unpack(held)) end
return lost
