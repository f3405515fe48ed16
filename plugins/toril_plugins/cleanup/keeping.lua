-- Somebody wants to remove a job: say why it has to stay.
for _, hold in ipairs(held_by(ctx.id) or {}) do
  local by = hold.who and ' by ' .. hold.who or ''
  local why = hold.why and ': ' .. hold.why or ''
  ctx.keep('held (' .. hold.handle .. ')' .. by .. why)
end
local missing = ctx.outcome and missing_plugins()
if missing then
  ctx.keep('its queue requires the plugin ' .. missing .. ', which this process does not run')
end
