--- @include "numbers"
-- The event stream of a queue. Some events trim the stream ("capped"), most do not; which do is
-- part of BullMQ's format.

local DEFAULT_MAX_EVENTS = '10000' -- as it is stored: mostly nothing is to be converted
local max_events_of = {}

-- How many events a stream keeps of which `stored` is said; false if nothing is.
local function cap_of(stored)
  if not stored or stored == DEFAULT_MAX_EVENTS then return DEFAULT_MAX_EVENTS end
  local cap = whole(stored)
  return cap > 0 and cap or DEFAULT_MAX_EVENTS
end

-- How many events the stream keeps, read once per call. Written if nobody has said it.
-- `stored`: the field as read before, if it was; false if it was read and missing.
local function max_events(Q, stored)
  local cap = max_events_of[Q]
  if not cap then
    if stored == nil then stored = redis.call('HGET', Q .. ':meta', 'opts.maxLenEvents') end
    if not stored then
      redis.call('HSET', Q .. ':meta', 'opts.maxLenEvents', DEFAULT_MAX_EVENTS)
    end
    cap = cap_of(stored)
    max_events_of[Q] = cap
  end
  return cap
end

local function emit(Q, event, ...)
  redis.call('XADD', Q .. ':events', '*', 'event', event, ...)
end

-- An event with a value. `told`: whether the stream tells values, which `toril.events.values` in
-- the meta of the queue denies.
local function emit_value(Q, told, event, id, field, value, ...)
  if told then
    emit(Q, event, 'jobId', id, field, value, ...)
  else
    local untold = field == 'failedReason' and '(not told in the events)' or 'null'
    emit(Q, event, 'jobId', id, field, untold, 'values', 'off', ...)
  end
end

local function emit_capped(Q, event, ...)
  redis.call('XADD', Q .. ':events', 'MAXLEN', '~', max_events(Q), '*', 'event', event, ...)
end

-- Cuts the stream, and returns how many events it keeps, as stored. Allowed on a full server also
-- as a script's first write, and with nothing to cut: a script that begins with it can do all its
-- writes there. Makes no queue where there is none.
local function cut_events(Q)
  local stored = redis.call('HGET', Q .. ':meta', 'opts.maxLenEvents')
  redis.call('XTRIM', Q .. ':events', 'MAXLEN', '~', cap_of(stored))
  return stored
end

local function trim_events(Q)
  max_events(Q, cut_events(Q))
end
