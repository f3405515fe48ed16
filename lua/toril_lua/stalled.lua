-- One slice of the stalled check: jobs whose worker vanished go back to run.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {phase, now, interval (ms), max_stalled, from}
--            phase 'begin': take the turn, unless somebody had it less than `interval` ago;
--            'recover': look at up to 250 of the ids to check, put back at most 100, fewer
--            if `active` is long; `oldest` = boolean: those at its end first, if there are any;
--            'mark': note up to 250 active ids, from number `from`, for the next check.
-- Returns:   begin: ms until the next check is due, 0: it is our turn.
--            recover: {1 if there is more, {{id, stalled count, 1 if it must fail}, ...},
--            ids dropped}. mark: 1 if there may be more, else 0.
-- Events:    waiting, stalled

--- @include "numbers"
--- @include "events"
--- @include "enqueue"
--- @include "lists"

local SLICE, MAX_RECOVERED, MAX_COMPARED = 250, 100, 100000
local TOO_OFTEN = 'job stalled more than allowable limit'

local Q = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])
local checking = Q .. ':toril:stalled:check'

local function begin()
  -- Looked at by its age, not only its existence: the shortest interval of all workers rules.
  local last = tonumber(redis.call('GET', Q .. ':stalled-check') or nil)
  local left = last and last <= request.now and last + request.interval - request.now or 0
  if left > 0 then return left end
  trim_events(Q)
  redis.call('SET', Q .. ':stalled-check', int(request.now), 'PX', request.interval)
  -- What an interrupted check left over comes first; the rest is for the next check.
  if redis.call('EXISTS', checking) == 0 and redis.call('EXISTS', Q .. ':stalled') == 1 then
    redis.call('RENAME', Q .. ':stalled', checking)
  end
  return 0
end

-- Whether a schedule that still exists made the job: then it is never failed for stalling.
local function has_schedule(rjk)
  return rjk and (redis.call('EXISTS', Q .. ':repeat:' .. rjk) == 1
    or redis.call('ZSCORE', Q .. ':repeat', rjk) ~= false)
end

local function put_back(id, stored)
  local key, count = Q .. ':' .. id, whole(stored[1]) + 1
  local fails = count > request.max_stalled and not has_schedule(stored[2])
  redis.call('HSET', key, 'stc', count)
  if fails then redis.call('HSET', key, 'defa', TOO_OFTEN) end
  redis.call('RPUSH', Q .. ':wait', id)
  emit(Q, 'waiting', 'jobId', id, 'prev', 'active')
  emit(Q, 'stalled', 'jobId', id)
  return {id, count, fails and 1 or 0}
end

-- The ids to check that are at the end of `active` where the oldest are: there they are found at
-- once.
local function oldest()
  local tail, ids = redis.call('LRANGE', Q .. ':active', -SLICE, -1), {}
  if #tail == 0 then return ids end
  local noted = redis.call('SMISMEMBER', checking, unpack(tail))
  for i = #tail, 1, -1 do
    if noted[i] == 1 then ids[#ids + 1] = tail[i] end
  end
  if #ids > 0 then redis.call('SREM', checking, unpack(ids)) end
  return ids
end

local function recover()
  trim_events(Q)
  local ids = request.oldest and oldest() or {}
  if #ids == 0 then ids = redis.call('SPOP', checking, SLICE) end
  if #ids == 0 then return {0, {}, {}} end
  local locks = {}
  for i, id in ipairs(ids) do locks[i] = Q .. ':' .. id .. ':lock' end
  locks = redis.call('MGET', unpack(locks))
  local recovered, dropped, later = {}, {}, {}
  for i, id in ipairs(ids) do
    if not locks[i] and (#recovered >= MAX_RECOVERED or compared > MAX_COMPARED) then
      later[#later + 1] = id
    elseif not locks[i] and take_from_list(Q .. ':active', id) then
      local stored = redis.pcall('HMGET', Q .. ':' .. id, 'stc', 'rjk', 'name', 'data', 'opts')
      if stored.err or not (stored[3] or stored[4] or stored[5]) then
        dropped[#dropped + 1] = id
      else
        recovered[#recovered + 1] = put_back(id, stored)
      end
    end
  end
  if #later > 0 then redis.call('SADD', checking, unpack(later)) end
  if #recovered > 0 then wake(Q) end
  return {redis.call('EXISTS', checking), recovered, dropped}
end

local function note_active()
  local ids = redis.call('LRANGE', Q .. ':active', request.from, request.from + SLICE - 1)
  if #ids > 0 then
    trim_events(Q)
    redis.call('SADD', Q .. ':stalled', unpack(ids))
  end
  return #ids == SLICE and 1 or 0
end

if request.phase == 'begin' then return begin() end
if request.phase == 'recover' then return recover() end
return note_active()
