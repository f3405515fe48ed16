-- What is left of a job that a rule removed. args = {id}. Returns the fields of its tombstone.
local stored = redis.call('HGETALL', ctx.own('tomb:@' .. args.id))
if #stored == 0 then return nil end
local tomb = {}
for i = 1, #stored, 2 do tomb[stored[i]] = stored[i + 1] end
return tomb
