-- Before the keys of a job go, whoever removes it: forget what was decided about it.
if ctx.state == 'completed' or ctx.state == 'failed' then
  if state('own', ctx.state) then forget(ctx.id, ctx.state) end
  local rule = live_rule(ctx.state)
  if rule and rule.key ~= '' then
    local bucket = bucket_of(ctx.id, rule.key, 'live')
    redis.call('ZREM', ctx.own('bucket:' .. ctx.state .. ':' .. bucket), ctx.id)
  end
end
