-- Take, renew or release a lease: the right to run a service of this queue for a while.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {action = 'take', 'renew' or 'release', service = name, token = text,
--                         ms = life in milliseconds}
-- Returns:   1 done, 0 somebody else holds it (or, renewing and releasing, nobody does)
-- Events:    none

local request = cmsgpack.unpack(ARGV[1])
local key = KEYS[1] .. ':toril:lease:' .. request.service
local holder = redis.call('GET', key)

if request.action == 'take' then
  if holder and holder ~= request.token then return 0 end
  -- A full server takes a SET after a write that it never refuses.
  redis.call('DEL', key)
  redis.call('SET', key, request.token, 'PX', request.ms)
  return 1
end

if holder ~= request.token then return 0 end
if request.action == 'renew' then
  return redis.call('PEXPIRE', key, request.ms)
end
return redis.call('DEL', key)
