-- The journal. args = {write = {field = text}} adds an entry, or {read = count} returns the newest
-- ones, newest first: {{ms, {field = text}}, ...}.
local key = ctx.own('journal')
if args.write then
  local flat = {}
  for field, text in pairs(args.write) do
    flat[#flat + 1] = field
    flat[#flat + 1] = text
  end
  redis.call('XADD', key, 'MAXLEN', '~', 1000, '*', 'at', string.format('%.0f', ctx.now),
    unpack(flat))
  return true
end
local found = {}
for n, entry in ipairs(redis.call('XREVRANGE', key, '+', '-', 'COUNT', args.read)) do
  local fields = {}
  for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
  local at = tonumber(fields.at) or 0
  fields.at = nil
  found[n] = {at, fields}
end
return found
