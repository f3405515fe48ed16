-- Put finished jobs back to run: one, or those of a state in slices.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {state = 'completed' or 'failed', id = text or absent,
--                         before = text: without an id, only jobs that finished by then (ms),
--                         limit = 1..100, skip = so many of the oldest (both without an id),
--                         reset_attempts, reset_started = boolean}
-- Returns:   {code, ids put back, 1 if there may be more, effects, how many stay}
--            code -1: no such job, -3: it is not in that state, -10: a rule has taken its data; all
--            only with an id. Ids without a job are taken out of the state; jobs without their data
--            stay in it.
-- Events:    waiting {jobId, prev = the state}, capped
--
-- A job goes where its priority and its own `lifo` say, also in slices (BullMQ's bulk retry puts
-- every job into the plain list). A living parent gets it back as an open child; the parent itself
-- is not moved, and a failure it already carries stays.

--- @include "numbers"
--- @include "effects"
--- @include "enqueue"
--- @include "no-data"

local q = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])
local set = q .. ':' .. request.state

-- Where the parent keeps children that ended this way.
local KEPT = {
  failed = {{'unsuccessful', 'ZREM'}, {'failed', 'HDEL'}},
  completed = {{'processed', 'HDEL'}},
}

local function reopen_in_parent(parent_key, key)
  if not parent_key or parent_key == '' or redis.call('EXISTS', parent_key) == 0 then return end
  for _, place in ipairs(KEPT[request.state]) do
    if redis.call(place[2], parent_key .. ':' .. place[1], key) == 1 then
      redis.call('SADD', parent_key .. ':dependencies', key)
    end
  end
end

local function has_no_data(key)
  return redis.call('HSTRLEN', key, 'data') == #NO_DATA
    and redis.call('HGET', key, 'data') == NO_DATA
end

local retried, staying = {}, 0

local function retry(id)
  local key = q .. ':' .. id
  local fields = redis.pcall('HMGET', key, 'name', 'priority', 'opts', 'parentKey')
  local exists = not fields.err and fields[1]
  if exists and has_no_data(key) then
    staying = staying + 1
    return
  end
  redis.call('ZREM', set, id)
  if not exists then return end
  redis.call('HDEL', key, 'finishedOn', 'processedOn',
    request.state == 'failed' and 'failedReason' or 'returnvalue')
  if request.reset_attempts then redis.call('HDEL', key, 'atm', 'attemptsMade') end
  if request.reset_started then redis.call('HDEL', key, 'ats') end
  local ok, opts = pcall(cjson.decode, fields[3] or '')
  push(q, id, whole(fields[2]), ok and type(opts) == 'table' and opts.lifo == true)
  emit_capped(q, 'waiting', 'jobId', id, 'prev', request.state)
  pcall(reopen_in_parent, fields[4], key)
  retried[#retried + 1] = id
end

local ids, code = {}, 0
if request.id then
  if not redis.call('ZSCORE', set, request.id) then
    code = redis.call('EXISTS', q .. ':' .. request.id) == 1 and -3 or -1
  else
    ids = {request.id}
  end
else
  ids = redis.call(
    'ZRANGEBYSCORE', set, '-inf', request.before, 'LIMIT', request.skip, request.limit)
end
for _, id in ipairs(ids) do retry(id) end
if request.id and code == 0 and #retried == 0 then code = staying > 0 and -10 or -1 end
if #retried > 0 then wake(q) end
return {code, retried, #ids == request.limit and 1 or 0, effects(), staying}
