--- @include "numbers"
--- @include "events"
-- Writing a new job. A job is {name, data, opts, timestamp, delay, priority, lifo, parent_key,
-- parent, deid, rjk, toril}; texts where no arithmetic is needed, absent or false if not given
-- (delay and priority: 0).
-- Whole numbers go to `redis.call` as they are, which keeps all their digits.

local function store_job(Q, id, job)
  local key = Q .. ':' .. id
  if job.parent_key or job.deid or job.rjk or job.toril then
    local fields = {
      'name', job.name, 'data', job.data, 'opts', job.opts, 'timestamp', job.timestamp,
      'delay', job.delay or 0, 'priority', job.priority or 0,
    }
    local optional = {
      'parentKey', job.parent_key or false, 'parent', job.parent or false,
      'deid', job.deid or false, 'rjk', job.rjk or false, 'toril', job.toril or false,
    }
    for i = 1, #optional, 2 do
      if optional[i + 1] then
        fields[#fields + 1] = optional[i]
        fields[#fields + 1] = optional[i + 1]
      end
    end
    redis.call('HSET', key, unpack(fields))
  else
    redis.call('HSET', key, 'name', job.name, 'data', job.data, 'opts', job.opts,
      'timestamp', job.timestamp, 'delay', job.delay or 0,
      'priority', job.priority or 0)
  end
  emit(Q, 'added', 'jobId', id, 'name', job.name)
end
