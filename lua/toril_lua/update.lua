-- Change the data, the progress or the log of a job.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {action = 'data', 'progress', 'log' or 'clear_logs', id = text,
--                         token = text or absent, keep = number of lines or absent}
--            [2] the new data or progress as JSON text, or the line
-- Returns:   log: how many lines there are; else 0
--            -1: no such job; with a token, -2: it is not locked, -6: locked with another token
-- Events:    progress {jobId, data}, capped

--- @include "events"

local q = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])
local key = q .. ':' .. request.id
local logs = key .. ':logs'

if redis.call('TYPE', key).ok ~= 'hash' then return -1 end
if request.token then
  local token = redis.call('GET', key .. ':lock')
  if not token then return -2 end
  if token ~= request.token then return -6 end
end

-- Begins with a write that a full server allows: a running job can still tell how far it is.
trim_events(q)

if request.action == 'data' then
  redis.call('HSET', key, 'data', ARGV[2])
elseif request.action == 'progress' then
  redis.call('HSET', key, 'progress', ARGV[2])
  if redis.call('HEXISTS', q .. ':meta', 'toril.events.values') == 0 then
    emit_capped(q, 'progress', 'jobId', request.id, 'data', ARGV[2])
  else
    emit_capped(q, 'progress', 'jobId', request.id, 'data', 'null', 'values', 'off')
  end
elseif request.action == 'log' then
  local lines = redis.call('RPUSH', logs, ARGV[2])
  if request.keep and request.keep > 0 and lines > request.keep then
    redis.call('LTRIM', logs, -request.keep, -1)
    return request.keep
  end
  return lines
elseif request.keep and request.keep > 0 then
  redis.call('LTRIM', logs, -request.keep, -1)
else
  redis.call('DEL', logs)
end
return 0
