-- Call records: a call that is sent again, because its reply was lost, gets the first one's reply;
-- a call that arrives after a later one of its lane is refused. record = {who, lane, n, ttl}. What
-- is stored is n:reply, the reply as msgpack, so that a call with another n need not read that.

local LATE = -20

local function record_key(Q, record)
  return Q .. ':toril:call:' .. record[1] .. ':' .. record[2]
end

-- The reply of this very call if it has been executed, LATE if a later one has, else nil.
local function recorded(Q, record)
  if not record then return nil end
  local stored = redis.call('GET', record_key(Q, record))
  local n, reply = string.match(stored or '', '^(%d+):()')
  n = tonumber(n)
  if n == record[3] then
    local ok, kept = pcall(cmsgpack.unpack, string.sub(stored, reply))
    return ok and kept or nil
  end
  return n and n > record[3] and LATE or nil
end

-- To be called last. Returns the reply. On a full server a call that has written nothing cannot be
-- recorded, and need not be: executing it again does nothing either.
local function keep_record(Q, record, reply)
  if record then
    local stored = record[3] .. ':' .. cmsgpack.pack(reply)
    redis.pcall('SET', record_key(Q, record), stored, 'PX', record[4])
  end
  return reply
end
