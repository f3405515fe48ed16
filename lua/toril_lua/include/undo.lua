-- The end of a job broke in the middle: it is active again as if nothing had been tried. Its lock
-- has not been touched yet.
local function undo(Q, id)
  if finishing.left ~= id then return end
  finishing.left = nil
  for _, set in ipairs({'completed', 'failed', 'delayed', 'prioritized'}) do
    redis.pcall('ZREM', Q .. ':' .. set, id)
  end
  redis.pcall('LREM', Q .. ':wait', 1, id)
  redis.pcall('LPUSH', Q .. ':active', id)
end
