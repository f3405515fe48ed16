-- What most finishes ask of this plugin, done for all jobs of a call by few commands and without
-- the seam: nothing goes; or jobs stay for an age of their own; or the live count does not keep the
-- oldest ones, and these simply go. Returns whether anything else is to be seen to: the chunk
-- (`finished.lua`) does it, which knows all cases, except for the outcomes in `ctx.seen.settled`.
-- For what the keys and fields are see base.lua.

local AT_ONCE = 50 -- jobs that go in a call
local PASSED = 4 -- jobs with a decision of their own, beside as many as go, that are passed over
local meta, settled, todo = ctx.fields, {}, nil
local holds, listed = meta['toril.holds.list'], ctx.planned -- listed: the jobs are gone through
ctx.seen.settled = settled

-- Whether somebody may hold one of the jobs. `names`: nil if they are not known.
local may_be_held
if holds then
  function may_be_held(ids, names)
    local wanted, fields = {}, {}
    for _, hold in ipairs(holds ~= '[]' and cjson.decode(holds) or {}) do
      if not (names and hold.name) then return true end
      wanted[hold.name] = true
    end
    for n, id in ipairs(ids) do
      if names and wanted[names[n]] then return true end
      fields[n] = 'toril.holds.id.' .. id
    end
    for _, hold in ipairs(redis.call('HMGET', ctx.q .. ':meta', unpack(fields))) do
      if hold then return true end
    end
    return false
  end
  for outcome, count in pairs(ctx.ended) do
    if count > 0 and may_be_held(ctx.list(outcome)) then return true end
  end
end

-- Most calls end here: nothing is said about these very jobs, and none is beyond the count.
for outcome, count in pairs(ctx.ended) do
  if count > 0 then
    local rule, ceiling, own, option
    if outcome == 'completed' then
      rule, option = meta['toril.retention.completed'], 'removeOnComplete'
      ceiling, own = meta['toril.ceiling.completed'], meta['toril.cleanup.own.completed']
    else
      rule, option = meta['toril.retention.failed'], 'removeOnFail'
      ceiling, own = meta['toril.ceiling.failed'], meta['toril.cleanup.own.failed']
    end
    -- The number of jobs kept, by a rule that counts all of them together; -1: it does not count.
    local last = rule and tonumber(string.match(rule, '^2:(%-?%d+):%-?%d+:%a+:%d+:[^:]*::%-1:'))
    local beyond
    if last and last > 0 and not own then
      -- Newest first, and one more than go at once.
      beyond = redis.call('ZREVRANGE', ctx.q .. ':' .. outcome, last, last + AT_ONCE)
    end
    if own or ctx.planned or ceiling or last == 0 or rule and not last
      or beyond and #beyond > 0 then
      todo, listed = todo or {}, listed or own or last == 0
      todo[outcome] = {
        rule = rule, last = last, ceiling = ceiling, own = own, beyond = beyond, option = option,
      }
    end
  end
end
if not todo then return false end

-- Notes the jobs that stay for an age of their own; `plans`: number -> what was decided, for some
-- of the `ids`. Returns the other ids; nil: this is not all that is to be noted.
local note_ages
if ctx.planned then
  function note_ages(own_key, outcome, ids, plans)
    local following, own, rules, at = {}, {}, {}, {}
    for n, id in ipairs(ids) do
      local plan = plans[n]
      local decision = plan and plan.decision
      if not plan then
        following[#following + 1] = id
      elseif not decision or decision.last or decision.first or decision.age == 0 then
        return nil
      else
        if string.sub(decision.rule, 1, 7) == 'plugin ' then decision.since = ctx.now end
        own[#own + 1], own[#own + 2] = ctx.now, id
        rules[#rules + 1], rules[#rules + 2] = id, cmsgpack.pack(decision)
        local never = math.huge
        local wait = math.min(decision.age or never, decision.logs or never, decision.data or never)
        if wait < never then at[#at + 1], at[#at + 2] = ctx.now + wait, id end
      end
    end
    -- About one that finished before something may be written down.
    if #own > 0 and redis.call('ZADD', own_key .. 'own:' .. outcome, unpack(own)) < #own / 2 then
      return nil
    end
    if #rules > 0 then redis.call('HSET', own_key .. 'rule:' .. outcome, unpack(rules)) end
    if #at > 0 then redis.call('ZADD', own_key .. 'at:' .. outcome, unpack(at)) end
    return following
  end
end

-- The ids that the live count does not keep, where others have a decision of their own; nil: that
-- takes a closer look.
local beyond_others
if meta['toril.cleanup.own.completed'] or meta['toril.cleanup.own.failed'] then
  function beyond_others(set, own, last, floor)
    local excess = redis.call('ZCARD', set) - redis.call('ZCARD', own) - last
    if excess <= 0 then return {} end
    if excess > AT_ONCE then return nil end
    local oldest = redis.call('ZRANGEBYSCORE', set, floor or '-inf', '+inf', 'LIMIT', 0,
      2 * excess + PASSED)
    local known, ids, head = redis.call('ZMSCORE', own, unpack(oldest)), {}, 0
    while known[head + 1] do head = head + 1 end
    if head > PASSED and known[head] ~= floor then return nil end -- the floor is to be raised
    for n, id in ipairs(oldest) do
      if not known[n] and #ids < excess then ids[#ids + 1] = id end
    end
    return #ids == excess and ids or nil
  end
end

-- Lets jobs go by the live rule. Returns whether they have gone: all or none.
local function let_go(outcome, ids, rule)
  -- By whose word, in which words, and without a tombstone.
  local level, words = string.match(rule, '^[^:]+:[^:]+:[^:]+:(%a+):%d+:([^:]*):.*:%-1$')
  local told = {ctx.q, 'removed', outcome, level, #ids}
  if not words or meta['toril.idwindow.ms'] or meta['toril.requires.plugins']
    or not ctx.remove_known(outcome, ids, level .. ': ' .. words, told) then
    return false
  end
  if #ids > 1 then
    redis.call('XADD', ctx.q .. ':events', '*', 'event', 'toril:evicted',
      'outcome', outcome, 'count', #ids)
  end
  return true
end

-- The ids of the jobs that ended so and follow the live rule; what was decided about the others has
-- been noted. Nil: something else is to be seen to.
local followers
if listed then
  function followers(outcome, about)
    local own_key = ctx.q .. ':toril:cleanup:'
    local following, _, plans, parents = ctx.list(outcome)
    if next(plans) then
      following = about.own and note_ages(own_key, outcome, following, plans)
    end
    if not following or about.last == 0 and next(parents) then return nil end
    if about.own and #following > 0 then
      local known = redis.call('ZMSCORE', own_key .. 'own:' .. outcome, unpack(following))
      for n = 1, #following do
        if known[n] then return nil end
      end
    end
    return following
  end
end

-- Returns whether all that is to be done about the jobs that ended so is done.
local function settle(outcome, about)
  local own, last, following, beyond = about.own, about.last, nil, about.beyond
  local set = ctx.q .. ':' .. outcome
  local floor = own and meta['toril.cleanup.floor.' .. outcome]
  if about.rule and not last or own and meta['toril.cleanup.seq.' .. outcome]
    or tonumber(floor or 0) > ctx.now then
    return false
  end
  if about.ceiling then
    local most, age = string.match(about.ceiling, '^[12]:(%-?%d+):(%-?%d+):')
    if not most or most ~= '-1' and redis.call('ZCARD', set) > tonumber(most) or age ~= '-1'
      and redis.call('ZRANGEBYSCORE', set, '-inf', ctx.now - age, 'LIMIT', 0, 1)[1] then
      return false
    end
  end
  if own or ctx.planned or last == 0 then
    following = followers(outcome, about)
    if not following then return false end
    if #following == 0 then return true end
  end
  if not last or last < 0 then return true end
  if last == 0 then return let_go(outcome, following, about.rule) end
  if own then
    beyond = beyond_others(set, ctx.q .. ':toril:cleanup:own:' .. outcome, last, floor)
  end
  if not beyond or #beyond > AT_ONCE then return false end
  for _, id in ipairs(beyond) do
    -- Something may be said for this very job, or it is a child.
    local read = redis.pcall('HMGET', ctx.q .. ':' .. id, 'toril', 'opts', 'parentKey')
    if read[1] or read[3] or read[2] and string.find(read[2], about.option, 1, true) then
      return false
    end
  end
  if #beyond == 0 then return true end
  return not (holds and may_be_held(beyond)) and let_go(outcome, beyond, about.rule)
end

local left = false
for outcome, about in pairs(todo) do
  settled[outcome] = settle(outcome, about)
  left = left or not settled[outcome]
end
return left
