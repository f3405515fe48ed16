-- {queue, id, plugin, reason} of the jobs that plugins keep although somebody wants to remove them.
local kept = {}
