-- Puts an active job aside until its children are done.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {now, record, id, token, child}; child: the key of the one child to wait
--            for, absent for any.
-- Returns:   {code, effects}; or -20: late. Codes: 0 put aside, 1 nothing to wait for, -1 no such
--            job, -2 no lock, -3 not active, -6 another's lock, -9 children have failed it.
-- Events:    waiting-children

--- @include "record"
--- @include "events"
--- @include "enqueue"
--- @include "lists"
--- @include "effects"

local Q = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])
local id, key = request.id, KEYS[1] .. ':' .. request.id

local function something_to_wait_for()
  local dependencies = key .. ':dependencies'
  if request.child then return redis.call('SISMEMBER', dependencies, request.child) == 1 end
  return redis.call('EXISTS', dependencies) == 1
end

local function put_aside()
  if redis.call('EXISTS', key) == 0 then return -1 end
  -- What has failed it may be gone; that it has to fail stays.
  if redis.call('EXISTS', key .. ':unsuccessful') == 1
    or redis.call('HEXISTS', key, 'defa') == 1 then
    return -9
  end
  if not something_to_wait_for() then return 1 end
  local lock = redis.call('GET', key .. ':lock')
  if not lock then return -2 end
  if lock ~= request.token then return -6 end
  redis.call('DEL', key .. ':lock')
  redis.call('SREM', Q .. ':stalled', id)
  if not take_from_list(Q .. ':active', id) then return -3 end
  redis.call('ZADD', Q .. ':waiting-children', request.now, id)
  emit(Q, 'waiting-children', 'jobId', id, 'prev', 'active')
  wake(Q)
  return 0
end

local again = recorded(Q, request.record)
if again then return again end
return keep_record(Q, request.record, {put_aside(), effects()})
