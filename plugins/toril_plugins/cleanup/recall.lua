-- What is left of a job that a rule removed. args = {id, taken}. Returns the fields of its
-- tombstone; with `taken`, for how many ms its id stays taken.
if args.taken then return redis.call('PTTL', ctx.own('taken:@' .. args.id)) end
local stored = redis.call('HGETALL', ctx.own('tomb:@' .. args.id))
if #stored == 0 then return nil end
local tomb = {}
for i = 1, #stored, 2 do tomb[stored[i]] = stored[i + 1] end
return tomb
