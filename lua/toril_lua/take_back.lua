-- Steps of taking back a large flow whose last step is too long ago.
--
-- Keys:      [1] the queue of the root; parents may be in other queues of the slot
-- Arguments: [1] msgpack {phase = 'claim', root, now, lease = ms: when it is tried again}: from
--                         now on no step of the flow is carried out any more;
--                 or {phase = 'loosen', parent = key, children = keys up to some hundreds, now}: a
--                         parent that was there before does not wait for those that do not exist;
--                 or {phase = 'done', root}
-- Returns:   1, or 0 (claim): there is nothing to take back, or its lease has not run out
-- Events:    waiting {jobId, prev = waiting-children} where a parent waited for nothing else

--- @include "numbers"
--- @include "events"
--- @include "parent"

local Q = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])
local flows = Q .. ':toril:flows'

local function claim()
  local due = redis.call('ZSCORE', flows, request.root)
  if not due or tonumber(due) > request.now then return 0 end
  -- Allowed on a full server; that allows the other writes too.
  cut_events(Q)
  redis.call('HSET', flows .. ':' .. request.root, 'back', int(request.now))
  redis.call('ZADD', flows, int(request.lease), request.root)
  return 1
end

local function loosen()
  local parent = parent_of(request.parent)
  if not parent then return 1 end
  cut_events(parent.queue)
  for _, key in ipairs(request.children) do
    if redis.call('EXISTS', key) == 0 then
      redis.call('SREM', parent.key .. ':dependencies', key)
    end
  end
  release_if_done(parent, request.now)
  return 1
end

if request.phase == 'claim' then return claim() end
if request.phase == 'loosen' then return loosen() end
redis.call('UNLINK', flows .. ':' .. request.root)
redis.call('ZREM', flows, request.root)
return 1
