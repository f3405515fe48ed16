-- Whether a finish about whose jobs nothing was decided has anything to do: whether something else
-- is said than a count, or jobs are beyond it; the ids of these are left in `seen`.
if meta['toril.holds.list'] then return true end
local work, beyond = false, {}
for outcome, count in pairs(ended) do
  local rule = count > 0 and meta['toril.retention.' .. outcome]
  -- The number of jobs kept, by a rule that counts all of them together; -1: it does not count.
  local last = rule and tonumber(string.match(rule, '^2:(%-?%d+):%-?%d+:%a+:%d+:[^:]*::%-1:'))
  if rule and not last or last == 0 or count > 0 and (meta['toril.ceiling.' .. outcome]
    or meta['toril.cleanup.own.' .. outcome]) then
    work = true
  elseif rule and last > 0 then
    -- Newest first, and one more than go at once.
    beyond[outcome] = redis.call('ZREVRANGE', q .. ':' .. outcome, last, last + 50)
    work = work or #beyond[outcome] > 0
  end
end
seen.beyond = beyond
return work
