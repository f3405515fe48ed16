-- Before the keys of a job go, whoever removes it: forget what was decided about it. Most jobs follow
-- a live rule without a key; about them nothing is written down.
if ctx.seen.unwritten then return end
if ctx.state ~= 'completed' and ctx.state ~= 'failed' then return end
if not ctx.meta('toril.cleanup.own.' .. ctx.state) then
  local rule = ctx.meta('toril.retention.' .. ctx.state)
  if not rule or string.find(rule, '^1:[^:]*:[^:]*:[^:]*:[^:]*:[^:]*:$') then return end
end
