-- Erase what is left of a job that is gone. args = {id, who}. Returns what there was, as words.
-- Jobs that are counted together are forgotten when they go, or, if another library removed one, by
-- the sweeper's next check.
local id, found = args.id, {}
for _, outcome in ipairs(OUTCOMES) do
  if redis.call('ZSCORE', ctx.own('own:' .. outcome), id)
    or redis.call('HEXISTS', ctx.own('rule:' .. outcome), id) == 1 then
    found[#found + 1] = 'a decision'
    forget(id, outcome)
  end
end
if redis.call('DEL', ctx.own('tomb:@' .. id)) == 1 then found[#found + 1] = 'a tombstone' end
if redis.call('DEL', ctx.own('taken:@' .. id)) == 1 then found[#found + 1] = 'its taken id' end
-- The entry does not name the job: who knows its id can tell by the hash that it was erased.
if redis.call('EXISTS', ctx.q .. ':meta') == 1 then
  redis.call('XADD', ctx.own('journal'), 'MAXLEN', '~', 1000, '*', 'at',
    string.format('%.0f', ctx.now), 'what', 'erase', 'who', args.who,
    'job', string.sub(redis.sha1hex(id), 1, 16))
end
return found
