-- Somebody puts back a job that was gone. What is said about it does not count for a while, or it
-- would go again at once. ctx.plan = {stay = ms, text = the same in words}; a week without one.
local plan = type(ctx.plan) == 'table' and ctx.plan or {}
local stay = tonumber(plan.stay) or 604800000
local decision = {
  rule = 'restored: ' .. (plan.text or '7d'), age = ctx.now - ctx.finished_on + stay,
  since = ctx.now,
}
-- If a foreign worker removed it, what was written down about it is still there.
redis.call('ZREM', ctx.own('nth:' .. ctx.outcome), ctx.id)
redis.call('ZREM', ctx.own('due:' .. ctx.outcome), ctx.id)
if not state('own', ctx.outcome) then set_state('own', ctx.outcome, 1) end
redis.call('ZADD', ctx.own('own:' .. ctx.outcome), ctx.finished_on, ctx.id)
redis.call('HSET', ctx.own('rule:' .. ctx.outcome), ctx.id, cmsgpack.pack(decision))
redis.call('ZADD', ctx.own('at:' .. ctx.outcome), ctx.now + stay, ctx.id)
