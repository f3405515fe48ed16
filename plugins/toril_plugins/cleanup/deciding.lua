-- Beside gate.lua and indexes.lua, for the parts that decide and let go.

local MINUTE, HOUR = 60000, 3600000
local FEW = 200 -- jobs: so large a bucket is looked through before some of them go
local CEILING = 'ceiling of the ' -- so begins the rule of a job that goes by a ceiling

-- A job does not follow the live rule any more. `decision`: what it follows, if that is known.
local function protect(id, outcome, finished_on, decision)
  if not state('own', outcome) then set_state('own', outcome, 1) end
  redis.call('ZADD', ctx.own('own:' .. outcome), finished_on, id)
  if decision then
    redis.call('HSET', ctx.own('rule:' .. outcome), id, cmsgpack.pack(decision))
  end
end

-- Set a job aside until the sweeper asks about it. `decision`: {rule = by which it would go if it
-- could, why} or {asked}.
local function park(id, outcome, finished_on, due, decision)
  protect(id, outcome, finished_on, decision)
  uncount_live(id, outcome)
  redis.call('ZADD', ctx.own('due:' .. outcome), due, id)
end

-- When to look again at a job that may not go now: its age once more, 1 minute to 1 hour.
local function look_again(finished_on)
  return ctx.now + math.min(math.max(ctx.now - finished_on, MINUTE), HOUR)
end

-- A job that follows the live rule has appeared: the floor is not above it. Clocks differ.
local function lower_floor(outcome, finished_on)
  local floor = state('floor', outcome)
  if floor and floor > finished_on then set_state('floor', outcome, finished_on) end
end

-- Whether something may have been said for this very job about this outcome; and its parent's key,
-- false if it has none, nil if that cannot be read.
local function has_own_value(id, outcome)
  local fields = redis.pcall('HMGET', ctx.q .. ':' .. id, 'toril', 'opts', 'parentKey')
  if fields.err then return false end
  local own = stored_by_toril(fields[1], fields[2])
  local says = #said_about(own, outcome) > 0 or option_about(own, fields[2], outcome) ~= nil
  return says, fields[3]
end

-- When something happens next to a job with a decision of its own, by time: a tier, or its end.
-- Nil: nothing does.
local function next_step(decision, finished_on)
  local step = decision.age
  for _, tier in ipairs({decision.logs or math.huge, decision.data or math.huge}) do
    if tier < (step or math.huge) then step = tier end
  end
  return step and finished_on + step
end

-- A job with a decision of its own goes when `at` has come, and not by its count any more.
local function wait_until(outcome, job, at)
  job.decision.over = true
  protect(job.id, outcome, job.finished_on, job.decision)
  redis.call('ZREM', ctx.own('nth:' .. outcome), job.id)
  redis.call('ZADD', ctx.own('at:' .. outcome), at, job.id)
end

-- By a ceiling goes what has another decision: that one stays as it is, or, if the job may not go
-- now, is made anew when it is asked about again.
local function put_off_ceiling(outcome, job)
  if job.why == 'later' or job.why == 'budget' then return end
  forget(job.id, outcome)
  if job.why == 'blocked' or job.why == 'locked' then
    park(job.id, outcome, job.finished_on, look_again(job.finished_on),
      {rule = job.rule, why = job.why})
  end
end

-- A job has not gone, for the reason `job.why`. One that follows the live rule and may not go now
-- is taken out of the head of the index: a slice full of such jobs would stop eviction for ever.
local function put_off(outcome, job)
  local why = job.why
  if why == 'held' then return end -- whoever holds it has seen to it
  if job.ceiling then return put_off_ceiling(outcome, job) end
  if why == 'gone' or why == 'changed' then
    if job.own then forget(job.id, outcome) end
  elseif why == 'later' or why == 'budget' then
    if job.own then wait_until(outcome, job, ctx.now) end
  elseif job.own then
    ctx.report({ctx.q, 'parked', outcome, why, 1})
    wait_until(outcome, job, look_again(job.finished_on))
  else
    ctx.report({ctx.q, 'parked', outcome, why, 1})
    park(job.id, outcome, job.finished_on, look_again(job.finished_on),
      {rule = job.rule, why = why})
  end
end

local function let_go_or_put_off(outcome, jobs)
  for _, job in ipairs(let_go(outcome, jobs)) do put_off(outcome, job) end
end

-- Jobs with a decision of their own, as the gate takes them. One that has no decision goes by
-- nothing: it is asked about.
local function own_jobs(outcome, ids)
  local jobs = {}
  if #ids == 0 then return jobs end
  local scores = redis.call('ZMSCORE', ctx.own('own:' .. outcome), unpack(ids))
  local packed = redis.call('HMGET', ctx.own('rule:' .. outcome), unpack(ids))
  for n, id in ipairs(ids) do
    local decision = packed[n] and unpacked(packed[n]) or {}
    jobs[n] = {
      id = id, finished_on = tonumber(scores[n] or nil), rule = decision.rule or 'unknown',
      decision = decision, own = true,
    }
  end
  return jobs
end

-- Take the jobs out of a small bucket that have left the finished set: nobody may have told us that
-- they were retried or removed. Returns how many are left, and {id, score, ...} if it was small.
local function purge_bucket(key, outcome)
  local size = redis.call('ZCARD', key)
  if size == 0 or size > FEW then return size end
  local found, kept, ids = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES'), {}, {}
  for i = 1, #found, 2 do ids[#ids + 1] = found[i] end
  local scores = redis.call('ZMSCORE', finished_key(outcome), unpack(ids))
  for n, id in ipairs(ids) do
    if scores[n] == found[2 * n] then
      kept[#kept + 1], kept[#kept + 2] = id, scores[n]
    else
      redis.call('ZREM', key, id)
    end
  end
  return #kept / 2, kept
end

-- How many jobs a bucket keeps under a decision, the oldest and the newest.
local function kept_in_bucket(decision)
  if not decision.last and not decision.first then return math.huge end
  return (decision.last or 0) + (decision.first or 0)
end

-- What a bucket holds too many under the live rule or a decision, oldest first, at most `most`, as
-- the gate takes them. For decisions of their own `own` is to be set.
local function beyond_count(outcome, bucket, decision, most)
  local key, keeps, jobs = bucket_key(outcome, bucket), kept_in_bucket(decision), {}
  if most <= 0 or redis.call('ZCARD', key) <= keeps then return jobs end
  local size, found = purge_bucket(key, outcome)
  local count, first = math.min(size - keeps, most), decision.first or 0
  if count <= 0 then return jobs end
  if not found then
    found, first = redis.call('ZRANGE', key, first, first + count - 1, 'WITHSCORES'), 0
  end
  for n = first + 1, first + count do
    jobs[#jobs + 1] = {
      id = found[2 * n - 1], finished_on = tonumber(found[2 * n]), rule = decision.rule,
      decision = decision, bucket = bucket,
    }
  end
  return jobs
end

-- Leave a bucket that holds too many to the sweeper.
local function note_if_over(outcome, bucket, rule)
  if redis.call('ZCARD', bucket_key(outcome, bucket)) > kept_in_bucket(rule) then
    redis.call('SADD', ctx.own('over:' .. outcome), bucket)
  end
end

-- Count a job under the live rule's key. Returns its bucket.
local function count_live(id, outcome, finished_on, rule)
  local bucket = live_bucket(id, rule)
  redis.call('ZADD', bucket_key(outcome, bucket), finished_on, id)
  redis.call('HSET', ctx.own('buckets:' .. outcome), bucket, rule.key or '')
  return bucket
end

-- Let go jobs with a decision of their own that no index names yet, or no more. Where jobs are
-- handed over they are noted first: whoever takes them may die, and they are settled by what is
-- stored.
local function let_go_own(outcome, jobs)
  if not gate.hand_over then return let_go_or_put_off(outcome, jobs) end
  for _, job in ipairs(jobs) do
    if job.finished_on then wait_until(outcome, job, ctx.now) else forget(job.id, outcome) end
  end
end

-- Count a job in the bucket of its own decision, and let go what is too much in it.
local function count_own(job, outcome)
  local bucket = job.decision.bucket
  redis.call('ZADD', bucket_key(outcome, bucket), job.finished_on, job.id)
  local ids = {}
  for n, old in ipairs(beyond_count(outcome, bucket, job.decision, FEW)) do
    redis.call('ZREM', bucket_key(outcome, bucket), old.id)
    ids[n] = old.id
  end
  let_go_own(outcome, own_jobs(outcome, ids))
end

-- Store a decision about one job, about which nothing is stored. `seq` is the job's finish number,
-- nil while nobody counts; returns it (made here if needed).
local function decide(id, outcome, finished_on, decision, seq)
  local job = {
    id = id, finished_on = finished_on, rule = decision.rule, decision = decision, own = true,
  }
  if is_nothing(decision) then
    let_go_own(outcome, {job})
    return seq
  end
  if string.sub(decision.rule, 1, 7) == 'plugin ' then decision.since = ctx.now end
  if is_bucketed(decision) then decision.bucket = own_bucket(id, decision) end
  protect(id, outcome, finished_on, decision)
  local at = next_step(decision, finished_on)
  if at then redis.call('ZADD', ctx.own('at:' .. outcome), at, id) end
  if decision.bucket then
    count_own(job, outcome)
  elseif decision.last then
    seq = seq or 0
    redis.call('ZADD', ctx.own('nth:' .. outcome), seq + decision.last, id)
  end
  return seq
end

-- Let go jobs with an own count whose number has come. Returns whether none is left.
local function evict_counted(outcome, seq, most)
  if most <= 0 then return false end
  local due = redis.call('ZRANGEBYSCORE', ctx.own('nth:' .. outcome), '-inf', seq, 'LIMIT', 0, most)
  let_go_or_put_off(outcome, own_jobs(outcome, due))
  return #due < most
end

-- How many jobs have a decision of their own, and how many of the others the live count keeps
-- too many.
local function others_and_excess(outcome, rule)
  local others = state('own', outcome) and redis.call('ZCARD', ctx.own('own:' .. outcome)) or 0
  if not rule.last or is_bucketed(rule) then return others, 0 end
  return others, redis.call('ZCARD', finished_key(outcome)) - others - rule.last
end

-- Apply the queue's ceiling, if there is one, to the oldest jobs from rank `skip` on; it beats what
-- was decided about them. Parked jobs, and held ones, neither go nor count. Looks past at most
-- `margin` of them. Returns whether nothing is left to do, and where to go on.
local function apply_ceiling(outcome, margin, skip)
  local rule = parse_rule(ctx.meta('toril.ceiling.' .. outcome))
  if not rule then return true, 0 end
  rule.rule = CEILING .. rule.rule
  local set, parked_set, own_set = finished_key(outcome), ctx.own('due:' .. outcome),
    ctx.own('own:' .. outcome)
  local cutoff, excess = rule.age and ctx.now - rule.age or nil, 0
  if rule.last then
    local held = redis.call('ZCOUNT', set, HELD, '+inf')
    excess = redis.call('ZCARD', set) - redis.call('ZCARD', parked_set) - held - rule.last
  end
  if excess <= 0 and not cutoff then return true, 0 end
  local most = ctx.budget
  if most <= 0 then return false, skip end
  local window = math.min(excess > 0 and cutoff == nil and excess or most, most) + margin
  local found = redis.call('ZRANGEBYSCORE', set, '-inf', excess > 0 and '(' .. HELD or cutoff,
    'WITHSCORES', 'LIMIT', skip, window)
  if #found == 0 then return true, 0 end
  local ids, jobs, done, passed = {}, {}, #found / 2 < window, 0
  for i = 1, #found, 2 do ids[#ids + 1] = found[i] end
  local parked, own = redis.call('ZMSCORE', parked_set, unpack(ids)),
    redis.call('ZMSCORE', own_set, unpack(ids))
  for n, id in ipairs(ids) do
    local finished_on = tonumber(found[2 * n])
    if parked[n] then
      passed = passed + 1
    elseif #jobs == most then
      done = false
      break
    elseif #jobs < excess or cutoff and finished_on <= cutoff then
      jobs[#jobs + 1] = {
        id = id, finished_on = finished_on, rule = rule.rule, own = own[n] and true,
        decision = own[n] and stored_decision(id, outcome) or rule, ceiling = true, unsure = true,
      }
    else
      done = true
      break
    end
  end
  let_go_or_put_off(outcome, jobs)
  return done, skip + passed
end
