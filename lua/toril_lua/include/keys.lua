-- The keys that belong to one job. Its lock is not among them: it belongs to a worker.

-- `ids`: up to 100. Returns how many of their keys there were.
local function unlink_jobs(Q, ids)
  local keys = {}
  for n, id in ipairs(ids) do
    local key, last = Q .. ':' .. id, 6 * n
    keys[last - 5], keys[last - 4], keys[last - 3] = key, key .. ':logs', key .. ':dependencies'
    keys[last - 2], keys[last - 1] = key .. ':processed', key .. ':failed'
    keys[last] = key .. ':unsuccessful'
  end
  return redis.call('UNLINK', unpack(keys))
end
