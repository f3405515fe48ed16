-- Adds an event of somebody's own to the stream of a queue.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {limit = number of events to keep, or absent: as many as the queue keeps}
--            [2] its name, then names and values of its fields
-- Returns:   its id in the stream
-- Events:    the one given, capped

--- @include "events"

local limit = cmsgpack.unpack(ARGV[1]).limit
return redis.call('XADD', KEYS[1] .. ':events', 'MAXLEN', '~', limit or max_events(KEYS[1]), '*',
  'event', unpack(ARGV, 2))
