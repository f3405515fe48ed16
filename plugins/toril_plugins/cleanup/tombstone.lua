-- What is left of a job that a rule removes: a tombstone, and its id stays taken.

-- Notes who said what for the job itself about this end of it, by level: {s = source, t = when in
-- ms, v = what, unless the rule says so}. It is stored with the job; of a schedule's run it is
-- among the options. Short texts, or the tombstone takes three times as much.
local function note_said(note, stored, opts)
  local among_opts = not stored and opts and string.find(opts, '"toril"', 1, true)
  local ok, own = pcall(cjson.decode, among_opts and opts or stored or 'null')
  if ok and among_opts and type(own) == 'table' then own = own.toril end
  local said = ok and type(own) == 'table' and type(own.said) == 'table' and own.said.retention
  for _, each in ipairs(type(said) == 'table' and said or {}) do
    local keep = type(each) == 'table' and type(each.v) == 'table' and each.v[outcome]
    if keep then
      local is_rule = string.find(ctx.rule, each.l .. ': ', 1, true) == 1
      note(each.l, cjson.encode({s = each.s, t = each.t, v = not is_rule and keep or nil}))
    end
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
    'opts')
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
    note_said(note, fields[6], fields[7])
    redis.call('HSET', ctx.own('tomb:@' .. ctx.id), unpack(tomb))
    redis.call('PEXPIRE', ctx.own('tomb:@' .. ctx.id), left)
  end
end
local window = job and tonumber(ctx.meta('toril.idwindow.ms') or nil)
if window then redis.call('SET', ctx.own('taken:@' .. ctx.id), 1, 'PX', window) end
if not written then return end
