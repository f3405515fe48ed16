--- @include "numbers"
--- @include "events"
--- @include "enqueue"
-- Writing a new job. A job is {name, data, opts, timestamp, delay, priority, lifo, parent_key,
-- parent, deid, rjk, toril}; texts where no arithmetic is needed, absent or false if not given.
-- Whole numbers go to `redis.call` as they are, which keeps all their digits.

local function store_job(Q, id, job)
  local key = Q .. ':' .. id
  if job.parent_key or job.deid or job.rjk or job.toril then
    local fields = {
      'name', job.name, 'data', job.data, 'opts', job.opts, 'timestamp', job.timestamp,
      'delay', job.delay, 'priority', job.priority,
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
      'timestamp', job.timestamp, 'delay', job.delay, 'priority', job.priority)
  end
  emit(Q, 'added', 'jobId', id, 'name', job.name)
end

-- Puts a new job where it belongs, without a marker. Returns whether it is delayed.
local function push_new(Q, id, job)
  if job.delay > 0 then
    push_delayed(Q, id, job.timestamp + job.delay)
    return true
  end
  push(Q, id, job.priority, job.lifo)
  emit_capped(Q, 'waiting', 'jobId', id)
  return false
end

local function link_to_parent(parent_key, child_key)
  redis.call('SADD', parent_key .. ':dependencies', child_key)
end
