--- @include "numbers"
--- @include "events"
--- @include "keys"
--- @when restored
--- @include "seam"
--- @end
-- ctx.restore: putting a finished job back that is gone, as it was.

local RESTORED_AT_ONCE = 1000 -- arguments a command: far below what Lua can unpack

local function write_list(list, command, key)
  for i = 1, #list, RESTORED_AT_ONCE do
    redis.call(command, key, unpack(list, i, math.min(i + RESTORED_AT_ONCE - 1, #list)))
  end
end

-- What a job's children left with it: `kind` is the key's ending in BullMQ's format.
local function write_children(key, kind, left)
  if kind ~= 'unsuccessful' then return write_list(left, 'HSET', key .. ':' .. kind) end
  for i = 1, #left, 2 do redis.call('ZADD', key .. ':' .. kind, left[i + 1], left[i]) end
end

-- BullMQ numbers jobs: the next number must not be that of a job that is there.
local function keep_counter_above(Q, id)
  if string.match(id, '^[1-9]%d*$') and #id <= 15
    and tonumber(id) > whole(redis.call('GET', Q .. ':id')) then
    redis.call('SET', Q .. ':id', id)
  end
end

-- Writes a finished job back into its finished set. `fields`: its hash as HGETALL gives it;
-- `logs`: its log lines; `children`: what its children left, {processed = {child, value, ...},
-- failed = {child, value, ...}, unsuccessful = {child, score, ...}}; `plans`: what each plugin's
-- `restored` chunk gets as ctx.plan, by plugin.
-- Returns true; or false and 'exists', and nothing is written. No parent gets it back as a child.
local function restore(Q, id, outcome, finished_on, fields, logs, children, plans)
  local key = Q .. ':' .. id
  if outcome ~= 'completed' and outcome ~= 'failed' then
    error('only completed and failed jobs can be restored')
  end
  if type(finished_on) ~= 'number' or #fields == 0 then
    error('a job is restored with its fields and the time at which it finished')
  end
  if redis.call('EXISTS', key) == 1 then return false, 'exists' end
  unlink_jobs(Q, {id})
  write_list(fields, 'HSET', key)
  write_list(logs or {}, 'RPUSH', key .. ':logs')
  for _, kind in ipairs({'processed', 'failed', 'unsuccessful'}) do
    write_children(key, kind, children and children[kind] or {})
  end
  redis.call('ZADD', Q .. ':' .. outcome, string.format('%.17g', finished_on), id)
  keep_counter_above(Q, id)
  emit_capped(Q, 'toril:restored', 'jobId', id, 'state', outcome)
--- @when restored
  local ctx = new_ctx(Q)
  ctx.id, ctx.key, ctx.outcome, ctx.finished_on = id, key, outcome, finished_on
  run_chunks('restored', Q, ctx, plans)
--- @end
  return true
end
