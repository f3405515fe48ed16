-- What is left of a job that a rule removes: a tombstone, and its id stays taken.

-- Notes who said what for the job itself about this end of it, by level: {s = source, t = when in
-- ms, v = what, unless the rule says so; o = BullMQ's own option, if nothing else was said}. Short
-- texts, or the tombstone takes three times as much.
local function note_said(note, own, opts, level, created)
  local said = said_about(own, outcome)
  for _, each in ipairs(said) do
    local is_rule = string.find(ctx.rule, each.l .. ': ', 1, true) == 1
    local value = not is_rule and each.v[outcome] or nil
    note(each.l, cjson.encode({s = each.s, t = each.t, v = value}))
  end
  if #said > 0 then return end
  local value, option = option_about(own, opts, outcome)
  if value ~= nil then
    note(level, cjson.encode({s = 'option ' .. option, t = tonumber(created) or 0, o = value}))
  end
end

local decision = job and job.decision
local tombstone = decision and decision.tombstone
if job and job.unsure and not job.own then
  local rule = live_rule(outcome)
  tombstone = rule and rule.tombstone
end
local left = tombstone and job.finished_on + tombstone - ctx.now or 0
if left > 0 then
  local fields = redis.pcall(
    'HMGET', ctx.key, 'name', 'returnvalue', 'failedReason', 'parentKey', 'timestamp', 'toril',
    'opts', 'rjk')
  if not fields.err and (fields[1] or fields[4] or fields[5]) then
    local tomb = {
      'name', fields[1] or '', 'outcome', outcome, 'finishedOn', job.finished_on,
      'rule', ctx.rule, 'gone', ctx.now,
    }
    local function note(name, text)
      tomb[#tomb + 1], tomb[#tomb + 2] = name, text
    end
    local text = outcome == 'completed' and fields[2] or outcome == 'failed' and fields[3]
    local size = text and #text or 0
    if size > 1024 then
      note('cut', size)
      -- A part of a result would not be JSON. A reason is cut between two characters.
      local last = outcome == 'failed' and 1024 or 0
      while last > 0 and string.find(text, '^[\128-\191]', last + 1) do last = last - 1 end
      text = last > 0 and string.sub(text, 1, last)
    end
    if text then note(outcome == 'completed' and 'result' or 'reason', text) end
    if fields[4] then note('parent', fields[4]) end
    local own, level = stored_by_toril(fields[6], fields[7]), fields[8] and 'template' or 'job'
    note_said(note, own, fields[7], level, fields[5])
    redis.call('HSET', ctx.own('tomb:@' .. ctx.id), unpack(tomb))
    redis.call('PEXPIRE', ctx.own('tomb:@' .. ctx.id), left)
  end
end
local window = job and tonumber(ctx.meta('toril.idwindow.ms') or nil)
if window then redis.call('SET', ctx.own('taken:@' .. ctx.id), 1, 'PX', window) end
if not written then return end
