-- Looking for ids in the lists of a queue. A list is looked through from an end, at some 7 ns an id
-- on the way (10 ns where it is removed), as its layout offers nothing better.

local NEAR = 1000 -- so far from an end an id counts as near it
local compared = 0 -- ids that this call has looked through in vain, about

-- Takes an id out of a list: from the head if it is near it, else from the tail. Returns whether
-- it was there.
local function take_from_list(key, id)
  local size = redis.call('LLEN', key)
  if size > NEAR and redis.call('LPOS', key, id, 'MAXLEN', NEAR) then
    compared = compared + NEAR
    return redis.call('LREM', key, 1, id) > 0
  end
  if size > NEAR and not redis.call('LPOS', key, id, 'RANK', -1, 'MAXLEN', NEAR) then
    compared = compared + size
  end
  return redis.call('LREM', key, -1, id) > 0
end
