-- Most calls: nothing was decided about these jobs, and the live rule lets none go now. Then
-- nothing else is even defined.
local AT_ONCE = 50 -- jobs that are too much, of which the newest may go first
local at_rest = not (ctx.planned() or ctx.meta('toril.holds.list'))
local beyond = {} -- outcome -> ids that the live count does not keep, newest first, where it is all
for outcome, count in pairs(ctx.ended) do
  if at_rest and count > 0 then
    local rule = ctx.meta('toril.retention.' .. outcome)
    -- The number of jobs kept, by a rule that counts all of them together; -1: it does not count.
    local last = rule and tonumber(
      string.match(rule, '^2:(%-?%d+):%-?%d+:%a+:%d+:[^:]*::%-1:'))
    if rule and not last or last == 0 or ctx.meta('toril.ceiling.' .. outcome)
      or ctx.meta('toril.cleanup.own.' .. outcome) then
      at_rest = false
    elseif rule and last > 0 then
      beyond[outcome] = redis.call('ZREVRANGE', ctx.q .. ':' .. outcome, last, last + AT_ONCE)
      at_rest = #beyond[outcome] == 0
    end
  end
end
if at_rest then return end
