-- Call records: a call that is sent again, because its reply was lost, gets the first one's reply;
-- a call that arrives after a later one of its lane is refused. record = {whose, n, ttl}. What
-- is stored is {n, reply} as msgpack, of which a call with another n reads no more than n.

local LATE = -20
local PAIR = 0x92 -- so a list of two begins

-- The reply of this very call if it has been executed, LATE if a later one has, else nil.
local function recorded(Q, record)
  if not record then return nil end
  local stored = redis.call('GET', Q .. ':toril:call:' .. record[1])
  if not stored or string.byte(stored) ~= PAIR then return nil end
  local ok, _, n = pcall(cmsgpack.unpack_one, stored, 1)
  if not ok or type(n) ~= 'number' or n < record[2] then return nil end
  if n > record[2] then return LATE end
  local whole_pair, pair = pcall(cmsgpack.unpack, stored)
  return whole_pair and pair[2] or nil
end

-- To be called last. Returns the reply. On a full server a call that has written nothing cannot be
-- recorded, and need not be: executing it again does nothing either.
local function keep_record(Q, record, reply)
  if record then
    local stored = cmsgpack.pack({record[2], reply})
    redis.pcall('SET', Q .. ':toril:call:' .. record[1], stored, 'PX', record[3])
  end
  return reply
end
