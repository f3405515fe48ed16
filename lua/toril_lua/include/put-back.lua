-- Puts ids from number `first` on back to where they were taken.
local function put_back(Q, ids, first, scores)
  for i = #ids, first, -1 do
    if scores and scores[ids[i]] then
      redis.call('ZADD', Q .. ':prioritized', scores[ids[i]], ids[i])
    else
      redis.call('RPUSH', Q .. ':wait', ids[i])
    end
  end
end
