-- Before the keys of a job go, whoever removes it: forget what was decided about it.
if ctx.state == 'completed' or ctx.state == 'failed' then
  if state('own', ctx.state) then forget(ctx.id, ctx.state) end
  local rule = live_rule(ctx.state)
  if rule and rule.key ~= '' then
    local bucket = ctx.own('bucket:' .. ctx.state .. ':' .. live_bucket(ctx.id, rule))
    redis.call('ZREM', bucket, ctx.id)
  end
end
