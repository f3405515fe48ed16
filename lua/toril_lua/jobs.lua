-- Jobs by their ids.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {ids = up to 100}
-- Returns:   {{field, value, ...}, ...}, in the order of the ids; empty where there is no job, also
--            where its key is garbled. At most about 1 MiB: then fewer than ids, but at least one.
-- Events:    none; nothing is written

local request = cmsgpack.unpack(ARGV[1])
local MAX_BYTES = 1048576

local jobs, bytes = {}, 0
for n, id in ipairs(request.ids) do
  if bytes >= MAX_BYTES then break end
  local hash = redis.pcall('HGETALL', KEYS[1] .. ':' .. id)
  if hash.err then hash = {} end
  for _, part in ipairs(hash) do bytes = bytes + #part end
  jobs[n] = hash
end
return jobs
