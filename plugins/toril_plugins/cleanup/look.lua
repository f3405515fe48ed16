-- Whether a finish about whose jobs nothing was decided has anything to do: whether something else
-- is said than a count, or jobs are beyond it. These go at once, as they do at most finishes: the
-- oldest ones, of which nothing is written down and which may go. Else their ids are in `seen`.
if meta['toril.holds.list'] then return true end
local AT_ONCE = 50

local work, beyond = false, {}
for outcome, count in pairs(ended) do
  local rule, more, option
  if count == 0 then
    rule = nil -- it is not asked about
  elseif outcome == 'completed' then
    rule, option = meta['toril.retention.completed'], 'removeOnComplete'
    more = meta['toril.ceiling.completed'] or meta['toril.cleanup.own.completed']
  else
    rule, option = meta['toril.retention.failed'], 'removeOnFail'
    more = meta['toril.ceiling.failed'] or meta['toril.cleanup.own.failed']
  end
  -- The number of jobs kept, by a rule that counts all of them together; -1: it does not count.
  local last = rule and tonumber(string.match(rule, '^2:(%-?%d+):%-?%d+:%a+:%d+:[^:]*::%-1:'))
  if more or rule and not last or last == 0 then
    work = true
  elseif rule and last > 0 then
    -- Newest first, and one more than go at once.
    local ids = redis.call('ZREVRANGE', q .. ':' .. outcome, last, last + AT_ONCE)
    if #ids > 0 then
      -- By whose word, in which words, and without a tombstone.
      local level, words = string.match(rule, '^[^:]+:[^:]+:[^:]+:(%a+):%d+:([^:]*):.*:%-1$')
      local plain = words and #ids <= AT_ONCE
        and not (meta['toril.idwindow.ms'] or meta['toril.requires.plugins'])
      for n = 1, plain and #ids or 0 do
        local read = redis.pcall('HMGET', q .. ':' .. ids[n], 'toril', 'opts', 'parentKey')
        -- Something may be said for this very job, or it is a child.
        plain = plain and not (read[1] or read[3]
          or read[2] and string.find(read[2], option, 1, true))
      end
      local told = {q, 'removed', outcome, level, #ids}
      if plain and remove(outcome, ids, level .. ': ' .. words, told) then
        if #ids > 1 then
          redis.call('XADD', q .. ':events', '*', 'event', 'toril:evicted',
            'outcome', outcome, 'count', #ids)
        end
        ids = {}
      end
      work = work or #ids > 0
    end
    beyond[outcome] = ids
  end
end
seen.beyond = beyond
return work
