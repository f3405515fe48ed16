-- Whether texts of Lua compile; nothing of them is run.
--
-- Keys:      [1] any name; it decides which server of a cluster is asked
-- Arguments: {name, text, ...}: bodies of functions, and what messages shall call them
-- Returns:   {what is wrong with the text or '', ...}
-- Events:    none; nothing is written

local wrong = {}
for i = 1, #ARGV, 2 do
  local name, text = '=' .. ARGV[i], ARGV[i + 1]
  -- On its own, so that it cannot end the function around it and go on outside; then within one,
  -- as it will be called.
  local compiled, why = loadstring(text, name)
  if compiled then
    compiled, why = loadstring('return {{function(ctx, args) ' .. text .. '\nend}}', name)
  end
  wrong[#wrong + 1] = compiled and '' or why
end
return wrong
