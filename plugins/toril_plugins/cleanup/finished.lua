-- The rest of the chunk: something has to be written down, or looked at more closely.

-- What was decided about an earlier finish of these jobs no longer holds.
local function forget_earlier(jobs, outcome)
  if not state('own', outcome) then return end
  local ids = {}
  for n, job in ipairs(jobs) do ids[n] = job.id end
  local known = redis.call('ZMSCORE', ctx.own('own:' .. outcome), unpack(ids))
  for n, id in ipairs(ids) do
    if known[n] then forget(id, outcome) end
  end
end

-- Those of the jobs, {{id, finishedOn}, ...}, for which nothing was said. Somebody else may have
-- finished the others: the sweeper asks about them first.
local function unspoken(jobs, outcome)
  local free = {}
  for _, job in ipairs(jobs) do
    if has_own_value(job[1], outcome) then
      park(job[1], outcome, job[2], ctx.now)
    else
      free[#free + 1] = job
    end
  end
  return free
end

-- Jobs that the live count did not keep, and which have not gone.
local function settle(jobs, outcome, rule)
  local said = {}
  for _, job in ipairs(jobs) do
    if job[3] == 'said' then
      said[#said + 1] = {job[1], job[2]}
    else
      put_off(job, outcome, rule)
    end
  end
  remove_live(unspoken(said, outcome), outcome, rule)
end

-- Count jobs under the live rule's key, and evict the oldest of their buckets.
local function count_by_key(jobs, outcome, rule, asking)
  local beyond = {}
  for _, job in ipairs(jobs) do
    local bucket = count_live(job.id, outcome, job.finished_on, rule)
    local key, room = bucket_key(outcome, bucket), ctx.budget - #beyond
    for _, old in ipairs(beyond_count(key, outcome, rule.count, asking and 0 or room)) do
      redis.call('ZREM', key, old[1])
      beyond[#beyond + 1] = old
    end
    if asking or #beyond >= ctx.budget then note_if_over(bucket, outcome, rule) end
  end
  remove_live(unspoken(beyond, outcome), outcome, rule, true)
end

local function follow_rule(jobs, outcome, rule)
  local asking = jobs[1].plan == true -- see `are_plain`
  if rule.key ~= '' then
    count_by_key(jobs, outcome, rule, asking)
  elseif rule.count == 0 then
    local all = {}
    for n, job in ipairs(jobs) do all[n] = {job.id, job.finished_on} end
    remove_live(all, outcome, rule)
  elseif rule.count > 0 and not asking then
    settle(evict(outcome, rule.count, rule.text), outcome, rule)
  end
end

-- Returns the jobs about which nothing was decided: they follow the live rule.
local function store(jobs, outcome)
  local seq = state('seq', outcome)
  local first_seq, following = seq, {}
  for _, job in ipairs(jobs) do
    if seq then seq = seq + 1 end
    if job.undecided then
      park(job.id, outcome, job.finished_on, ctx.now)
    elseif type(job.plan) == 'table' then
      seq = decide(job.id, outcome, job.finished_on, job.plan, seq)
    else
      following[#following + 1] = job
    end
  end
  if seq ~= first_seq then
    set_state('seq', outcome, seq)
    evict_counted(outcome, seq, ctx.budget)
  end
  return following
end

for outcome, jobs in pairs(ended) do
  local rule = live_rule(outcome)
  if stay[outcome] then
    settle(stay[outcome], outcome, rule)
  elseif #jobs > 0 then
    forget_earlier(jobs, outcome)
    local following = store(jobs, outcome)
    if #following > 0 then
      lower_floor(outcome, following[1].finished_on)
      if rule then follow_rule(following, outcome, rule) end
    end
  end
end
