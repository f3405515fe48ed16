-- Call records: a call that is sent again, because its reply was lost, gets the first one's reply;
-- a call that arrives after a later one of its lane is refused. record = {who, lane, n, ttl}.

local LATE = -20

local function record_key(Q, record)
  return Q .. ':toril:call:' .. record[1] .. ':' .. record[2]
end

-- The reply of this very call if it has been executed, LATE if a later one has, else nil.
local function recorded(Q, record)
  if not record then return nil end
  local stored = redis.call('GET', record_key(Q, record))
  local ok, kept = pcall(cmsgpack.unpack, stored or '')
  if not ok or type(kept) ~= 'table' or type(kept[1]) ~= 'number' then return nil end
  if kept[1] == record[3] then return kept[2] end
  if kept[1] > record[3] then return LATE end
  return nil
end

-- To be called last. Returns the reply. On a full server a call that has written nothing cannot be
-- recorded, and need not be: executing it again does nothing either.
local function keep_record(Q, record, reply)
  if record then
    redis.pcall('SET', record_key(Q, record), cmsgpack.pack({record[3], reply}), 'PX', record[4])
  end
  return reply
end
