-- Looks for parents of which somebody has decided that they must fail (`defa`), and whom no worker
-- has taken.
--
-- Keys:      [1] the queue, theirs or that of their children
-- Arguments: [1] msgpack {now, before = ms: those noted by then, limit = 1..100,
--                         after = score, skip = number: where to go on in `failed`, 500 at a time,
--                         till = score: not beyond}
-- Returns:   {{{key of the parent, {field, value, ...}}, ...}, {after, skip}, 1 if there is more of
--            `failed` else 0}; at most about 1 MiB of fields.
-- Events:    none
--
-- Two sources: what finishes by Toril noted in `Q:toril:deferred`, and the failed children of this
-- queue whose failure fails their parent, as workers of other libraries note nothing. What stands
-- in the list and is no longer true is dropped.

--- @include "numbers"
--- @include "events"
--- @include "parent"

local PAGE, MAX_BYTES = 500, 1048576

local Q = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])
local noted, allowed = Q .. ':toril:deferred', false

-- A full server allows the other writes after this one.
local function allow_writes()
  if not allowed then trim_events(Q) end
  allowed = true
end

-- The parent that this failed child fails, if it has been told and has not ended.
local function waiting_parent(id)
  local stored = redis.pcall('HMGET', Q .. ':' .. id, 'parentKey', 'parent')
  if stored.err or not stored[2] or not string.find(stored[2], 'fpof', 1, true) then return nil end
  local parent = parent_of(stored[1], stored[2])
  if not parent or parent.policy ~= 'fpof' then return nil end
  if type(redis.pcall('HGET', parent.key, 'defa')) ~= 'string' then return nil end
  -- Where that is garbled nobody can say, so nothing is done.
  return redis.pcall('ZSCORE', parent.queue .. ':failed', parent.id) == false and parent.key or nil
end

-- Notes the parents of one page of failed children. Returns where to go on, and whether to.
local function page_failed(after, skip)
  local page = redis.call('ZRANGEBYSCORE', Q .. ':failed', after, request.till, 'WITHSCORES',
    'LIMIT', skip, PAGE)
  for i = 1, #page, 2 do
    local key, failed_on = waiting_parent(page[i]), page[i + 1]
    if key then
      allow_writes()
      redis.call('ZADD', noted, 'NX', int(math.min(tonumber(failed_on), request.now)), key)
    end
    skip = failed_on == after and skip + 1 or 1
    after = failed_on
  end
  return {after, skip}, #page == 2 * PAGE and 1 or 0
end

local place, more = page_failed(request.after, request.skip)
local due, bytes = {}, 0
for _, key in ipairs(redis.call('ZRANGEBYSCORE', noted, '-inf', int(request.before),
  'LIMIT', 0, request.limit)) do
  if bytes >= MAX_BYTES then break end
  local hash, decided = redis.pcall('HGETALL', key), false
  for i = 1, hash.err and 0 or #hash, 2 do
    bytes = bytes + #hash[i + 1]
    decided = decided or hash[i] == 'defa'
  end
  if decided then
    due[#due + 1] = {key, hash}
  else
    allow_writes()
    redis.call('ZREM', noted, key)
  end
end
return {due, place, more}
