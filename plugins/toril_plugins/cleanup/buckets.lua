-- Go through the buckets of the live rule. args = {service, token, outcome, cursor}. Drops those of
-- another key and empty ones, notes those that hold too many for a lowered count, and looks through
-- some of the others. Returns {cursor}, '0' at the end.
local MOST = 400 -- jobs that are looked at

if not ctx.lease_held(args.service, args.token) then return {lost = true} end
local outcome = args.outcome
local registry, rule, looked = ctx.own('buckets:' .. outcome), live_rule(outcome), 0
local page = redis.call('HSCAN', registry, args.cursor, 'COUNT', 20)
local buckets = #page[2] / 2
for n = 1, buckets do
  -- Beginning somewhere else each time, as the page may hold more than can be looked through.
  local i = 2 * ((n + ctx.now) % buckets) + 1
  local bucket, counted_by = page[2][i], page[2][i + 1]
  local key = bucket_key(outcome, bucket)
  if not rule or not is_bucketed(rule) or (rule.key or '') ~= counted_by then
    redis.call('UNLINK', key)
    redis.call('HDEL', registry, bucket)
  else
    local size = looked < MOST and purge_bucket(key, outcome) or redis.call('ZCARD', key)
    looked = looked + math.min(size, FEW)
    if size == 0 then redis.call('HDEL', registry, bucket) end
    if size > kept_in_bucket(rule) then redis.call('SADD', ctx.own('over:' .. outcome), bucket) end
  end
end
return {cursor = page[1]}
