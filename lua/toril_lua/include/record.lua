-- Call records: a call that is sent again, because its reply was lost, gets the first one's reply;
-- a call that arrives after a later one of its lane is refused. record = {whose, n, ttl}. What
-- is stored is {n, reply} as msgpack, of which a call with another n reads no more than n.

local LATE = -20
local PAIR = 0x92 -- so a list of two begins

-- The reply in a record if it is of this very call, LATE if it is of a later one, else nil.
local function reply_in(stored, record)
  if not stored or string.byte(stored) ~= PAIR then return nil end
  local ok, _, n = pcall(cmsgpack.unpack_one, stored, 1)
  if not ok or type(n) ~= 'number' or n < record[2] then return nil end
  if n > record[2] then return LATE end
  local whole_pair, pair = pcall(cmsgpack.unpack, stored)
  return whole_pair and pair[2] or nil
end

-- The reply of this very call if it has been executed, LATE if a later one has, else nil.
local function recorded(Q, record)
  return record and reply_in(redis.call('GET', Q .. ':toril:call:' .. record[1]), record) or nil
end

-- `recorded` for a call that writes, and of which it is known how it will end unless something is
-- garbled: records that reply beforehand, as its first write, which a full server refuses. What has
-- another reply in the end has to keep that.
local function recorded_or_begun(Q, record, reply)
  local key = Q .. ':toril:call:' .. record[1]
  local begun = string.char(PAIR) .. cmsgpack.pack(record[2], reply)
  local stored = redis.pcall('SET', key, begun, 'PX', record[3], 'GET')
  local refused = type(stored) == 'table' -- by an error
  if refused then stored = redis.call('GET', key) end
  local again = reply_in(stored, record)
  if again and not refused then redis.call('SET', key, stored, 'PX', record[3]) end
  if refused and not again then redis.call('SET', key, begun, 'PX', record[3]) end -- says why
  return again
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
