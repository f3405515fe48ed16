--- @include "numbers"
--- @include "enqueue"
--- @include "store"
--- @include "effects"
--- @include "saved"
-- What becomes of a deduplication window when the job that owns it ends.

-- The job that was kept for later while the owner ran, or nil.
local function kept_job(key)
  local kept = redis.call('HMGET', key,
    'jid', 'name', 'data', 'opts', 'pk', 'pd', 'pdk', 'rjk', 'toril')
  local ok, opts = pcall(cjson.decode, kept[4] or '{}')
  if not kept[1] or not ok or type(opts) ~= 'table' then return nil end
  return {
    id = kept[1], name = kept[2] or '', data = kept[3] or '{}', opts = kept[4] or '{}',
    parent_key = kept[5], parent = kept[6], dependencies = kept[7], rjk = kept[8],
    toril = kept[9],
    delay = whole(opts.delay), priority = whole(opts.priority), lifo = opts.lifo == true,
    window = type(opts.de) == 'table' and opts.de or {},
  }
end

-- The window of an owner that has finished: one without an end closes now; then the job that was
-- kept for later is added. Returns whether one was.
local function close_window(Q, deduplication_id, owner, now)
  local window, kept_key = Q .. ':de:' .. deduplication_id, Q .. ':dn:' .. deduplication_id
  if redis.call('PTTL', window) == -1 and redis.call('GET', window) == owner then
    redis.call('DEL', window)
  end
  if redis.call('EXISTS', kept_key) == 0 then return false end
  local job = kept_job(kept_key)
  redis.call('DEL', kept_key)
  if not job or redis.call('EXISTS', Q .. ':' .. job.id) == 1 then return false end
  redis.call('INCR', Q .. ':id')
  local ttl = whole(job.window.ttl)
  if ttl > 0 and job.window.keepLastIfActive ~= true then
    redis.call('SET', window, job.id, 'PX', ttl)
  else
    redis.call('SET', window, job.id)
  end
  job.timestamp, job.deid = now, deduplication_id
  store_job(Q, job.id, job)
  if push_new(Q, job.id, job) then mark_delayed(Q) end
  if job.dependencies then redis.call('SADD', job.dependencies, Q .. ':' .. job.id) end
--- @when saved
  tell_saved(Q, job.id, job)
--- @end
  note_saved(Q, job.id)
  return true
end

-- The window of a job that is removed by hand.
local function drop_window(Q, deduplication_id, owner)
  local window = Q .. ':de:' .. deduplication_id
  if redis.call('GET', window) == owner then
    redis.call('DEL', window, Q .. ':dn:' .. deduplication_id)
  end
end
