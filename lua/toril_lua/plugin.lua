-- The frame of a plugin's own script. PLUGIN and PLUGIN_SCRIPT stand above this text.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {now, args, want_removed}
-- Returns:   {1, the script's value as msgpack, effects} or {0, what went wrong, effects}
-- Events:    removed; toril:restored {jobId, state}, capped; the plugin's own
-- Seam:      removed, restored

--- @include "seam"
--- @include "seam-remove"
--- @include "seam-restore"

local Q = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])
want_removed = request.want_removed
seam.queue, seam.plugin, seam.now = Q, PLUGIN, request.now

-- Allowed on a full server; allows the script's own writes there too.
cut_events(Q)

local ctx = new_ctx(Q)
allow_removals(ctx, false)
ctx.seen = {}
seam.seen[PLUGIN] = ctx.seen -- the same for its chunks
-- Whether the lease of a service is held with that token.
ctx.lease_held = function(service, token)
  return redis.call('GET', Q .. ':toril:lease:' .. service) == token
end

-- Puts a finished job back that is gone: true, or false and 'exists'.
ctx.restore = function(id, outcome, finished_on, fields, logs, children, plans)
  return restore(Q, id, outcome, finished_on, fields, logs, children, plans)
end

local ok, value = pcall(PLUGIN_SCRIPT, ctx, request.args)
if ok then return {1, cmsgpack.pack(value), effects()} end
return {0, type(value) == 'table' and value.err or tostring(value), effects()}
