-- Once per call, after jobs have finished: store what was decided about them, and apply the live
-- rule by count. Age is the sweeper's. Without a rule and without own values: no command at all.
-- Most calls end with this part: nothing was decided about these jobs, and the live count lets go the
-- oldest ones, which may go.

local MARGIN = 20 -- jobs with a decision of their own that are passed over

-- The live count of an outcome and its text; math.huge: no limit; nil: it takes more than a count.
local function live_count(outcome)
  local rule = ctx.meta('toril.retention.' .. outcome)
  local count, level, words, key =
    string.match(rule or '', '^1:(%-?%d+):[^:]*:(%a+):[^:]*:([^:]*):(.*)$')
  if not count or count == '-1' then return math.huge end
  if count == '0' or key ~= '' then return nil end
  return tonumber(count), level .. ': ' .. words
end

-- Evict by the live count. What lies behind more than a few jobs with a decision of their own is
-- left to the sweeper. Returns the jobs that did not go: {{id, finishedOn, why}, ...}; `said`:
-- somebody else may have finished it, and something be said for it.
local function evict(outcome, count, text)
  local finished, own = ctx.q .. ':' .. outcome, ctx.own('own:' .. outcome)
  local others = ctx.meta('toril.cleanup.own.' .. outcome) and redis.call('ZCARD', own) or 0
  local excess = math.min(redis.call('ZCARD', finished) - others - count, ctx.budget)
  if excess <= 0 then return {} end
  local floor_field, floor = 'toril.cleanup.floor.' .. outcome, '-inf'
  local window, known, head = excess, {}, 0 -- head: of the oldest, so many have a decision
  if others > 0 then
    floor = ctx.meta(floor_field) or '-inf'
    window = 2 * excess + MARGIN
  end
  local oldest = redis.call(
    'ZRANGEBYSCORE', finished, floor, '+inf', 'WITHSCORES', 'LIMIT', 0, window)
  if others > 0 and #oldest > 0 then
    local ids = {}
    for i = 1, #oldest, 2 do ids[#ids + 1] = oldest[i] end
    known = redis.call('ZMSCORE', own, unpack(ids))
    while known[head + 1] do head = head + 1 end
    if head > MARGIN / 2 then ctx.set_meta(floor_field, oldest[2 * head]) end
  end
  local option = outcome == 'completed' and 'removeOnComplete' or 'removeOnFail'
  local jobs, said = {}, {}
  for i = 1, #oldest, 2 do
    if #jobs + #said == excess then break end
    if not known[(i + 1) / 2] then
      local id, finished_on = oldest[i], tonumber(oldest[i + 1])
      local read = redis.pcall('HMGET', ctx.q .. ':' .. id, 'toril', 'opts', 'parentKey')
      if read[1] or read[2] and string.find(read[2], option, 1, true) then
        said[#said + 1] = {id, finished_on, 'said'}
      else
        jobs[#jobs + 1] = {id, finished_on, read[3] or false}
      end
    end
  end
  ctx.seen.unwritten = true -- the chunk `removed` has nothing to forget
  local stay = ctx.remove_all(jobs, outcome, text)
  ctx.seen.unwritten = nil
  for _, job in ipairs(said) do stay[#stay + 1] = job end
  return stay
end

-- Jobs of an outcome that have finished for good follow the live rule, and nothing is written down
-- about them. `asking`: this process has strategies. They may have something to say about jobs that
-- others finished, so evicting older jobs is left to the sweeper, which asks first.
local function are_plain(ended, outcome)
  local ids = {}
  for n, job in ipairs(ended) do
    if job.undecided or type(job.plan) == 'table' then return false end
    ids[n] = job.id
  end
  if not ctx.meta('toril.cleanup.own.' .. outcome) then return true end
  if ctx.meta('toril.cleanup.seq.' .. outcome) then return false end
  local floor = tonumber(ctx.meta('toril.cleanup.floor.' .. outcome) or nil)
  if floor and floor > ctx.now then return false end
  for _, known in ipairs(redis.call('ZMSCORE', ctx.own('own:' .. outcome), unpack(ids))) do
    if known then return false end
  end
  return true
end

local ended = {completed = {}, failed = {}}
local stay, settled = {}, true -- stay: by outcome, where eviction is done already
for _, job in ipairs(ctx.jobs) do
  if job.final then table.insert(ended[job.outcome], job) end
end
for outcome, jobs in pairs(ended) do
  if #jobs > 0 then
    local count, text = live_count(outcome)
    if not count or not are_plain(jobs, outcome) then
      settled = false
    elseif count < math.huge and jobs[1].plan ~= true then
      stay[outcome] = evict(outcome, count, text)
      settled = settled and #stay[outcome] == 0
    end
  end
end
if settled then return end
