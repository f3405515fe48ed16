-- What is stored of jobs beside their hashes. args = {wanted = {{id, part, cursor}…}}, part: 'logs'
-- (the cursor is the place of a line), 'processed' or 'failed' (children; a cursor of HSCAN).
-- Returns, for as many of them as fit into about 512 KiB, {values, cursor}: '' at the end.
local MAX_BYTES, LINES = 524288, 1000
local answers, bytes = {}, 0

local function page(key, part, cursor)
  local found, following
  if part == 'logs' then
    local start = tonumber(cursor)
    found = redis.pcall('LRANGE', key, start, start + LINES - 1)
    following = #found == LINES and string.format('%d', start + LINES) or ''
  else
    local scanned = redis.pcall('HSCAN', key, cursor, 'COUNT', LINES)
    found, following = scanned[2] or {}, scanned[1] ~= '0' and scanned[1] or ''
  end
  if found.err then return {}, '' end -- garbled
  return found, following or ''
end

for n, each in ipairs(args.wanted) do
  if bytes >= MAX_BYTES then break end
  local values, cursor = page(ctx.q .. ':' .. each[1] .. ':' .. each[2], each[2], each[3])
  for _, value in ipairs(values) do bytes = bytes + #value end
  answers[n] = {values, cursor}
end
return answers
