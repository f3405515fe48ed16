-- The keys that belong to one job. Its lock is not among them: it belongs to a worker.

-- Returns how many of them there were.
local function unlink_job(Q, id)
  local key = Q .. ':' .. id
  return redis.call('UNLINK', key, key .. ':logs', key .. ':dependencies', key .. ':processed',
    key .. ':failed', key .. ':unsuccessful')
end
