-- Numbers as text and back. Lua's own conversion to text keeps 14 digits, which would cut the tail
-- off scores and times.

local function int(number)
  return string.format('%.0f', number)
end

-- The whole number that a stored text stands for; 0 if it is missing or garbled.
local function whole(text)
  local number = tonumber(text)
  if not number or number ~= number or number >= 2 ^ 53 or number <= -2 ^ 53 then return 0 end
  return math.floor(number)
end
