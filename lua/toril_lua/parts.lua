-- What is stored of jobs beside their hashes, in pages.
--
-- Keys:      [1] the queue
-- Arguments: [1] msgpack {wanted = {{id, part, cursor}, ...}}, part = 'logs', 'processed', 'failed'
--            or 'unsuccessful', cursor = '0' at the start
-- Returns:   {{values, cursor}, ...} for as many of them, in order, as fit into about 512 KiB, but
--            at least one: log lines; children and values in turn; '' as cursor at the end. A page
--            may repeat children. Nothing where a key is garbled.
-- Events:    none; nothing is written

local request = cmsgpack.unpack(ARGV[1])
local MAX_BYTES, PAGE = 524288, 1000
local SCAN = {processed = 'HSCAN', failed = 'HSCAN', unsuccessful = 'ZSCAN'}

local function page(key, part, cursor)
  if part == 'logs' then
    local start = tonumber(cursor)
    local lines = redis.pcall('LRANGE', key, start, start + PAGE - 1)
    if lines.err then return {}, '' end
    return lines, #lines == PAGE and string.format('%d', start + PAGE) or ''
  end
  local found = redis.pcall(SCAN[part], key, cursor, 'COUNT', PAGE)
  if found.err then return {}, '' end
  return found[2], found[1] ~= '0' and found[1] or ''
end

local answers, bytes = {}, 0
for n, each in ipairs(request.wanted) do
  if bytes >= MAX_BYTES then break end
  local values, cursor = page(KEYS[1] .. ':' .. each[1] .. ':' .. each[2], each[2], each[3])
  for _, value in ipairs(values) do bytes = bytes + #value end
  answers[n] = {values, cursor}
end
return answers
