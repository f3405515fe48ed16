-- What all Lua of the cleanup plugin shares; it stands before each body, inside function(ctx).
--
-- Per outcome <o> (completed, failed) the plugin keeps, below Q:toril:cleanup:
--   own:<o>      zset  id -> finishedOn of every job that does not follow the queue's live rule
--   at:<o>       zset  id -> ms at which it is due (own age, or put off)
--   nth:<o>      zset  id -> finish number at which it is due (own count)
--   due:<o>      zset  id -> ms at which the sweeper asks about it: parked
--   rule:<o>     hash  id -> its decision, packed
--   bucket:<o>:<hash>  zset  id -> finishedOn, jobs counted together
--   buckets:<o>  hash  hash in use -> the key of the live rule that it counts by
--   over:<o>     set   hashes of such buckets that hold more than the rule keeps
-- and in meta: toril.cleanup.own.<o> (an own index exists), toril.cleanup.seq.<o> (finish number,
-- only while an own count exists), toril.cleanup.floor.<o> (below this score all are own).
-- Whoever is in at, nth, due or rule is in own. The finished sets of BullMQ are themselves the
-- index of the live rule, so jobs that follow it cost nothing here.
--
-- A decision, and the live rule, is a table {rule = text for people, age, last, first, key, group,
-- logs, data, tombstone, flow}, ages in ms, absent what was not said. A stored one has also
-- `bucket` (the hash), `since` (when a plugin decided so, or somebody put the job back), `note` (of
-- a reviewer), `why` (why it has been put off),
-- `over` (it goes when its time in `at` has come) and `asked` (the
-- plugin that could not answer; the job is undecided, and there is no rule).

local OUTCOMES = {'completed', 'failed'}
-- The score of a held job in its finished set: later than any foreign rule looks.
local HELD = 9e15

local function finished_key(outcome)
  return ctx.q .. ':' .. outcome
end

local function state(field, outcome)
  return tonumber(ctx.meta('toril.cleanup.' .. field .. '.' .. outcome) or nil)
end

local function set_state(field, outcome, value)
  ctx.set_meta('toril.cleanup.' .. field .. '.' .. outcome, value)
end

-- A projected rule, as Retention.project and Ceiling.project wrote it, as a decision; or nil.
local function parse_rule(text)
  if not text then return nil end
  local count, age, level, words, more =
    string.match(text, '^[12]:(%-?%d+):(%-?%d+):(%a+):%d+:([^:]*):?(.*)$')
  if not count then return nil end
  local rule = {
    rule = level .. ': ' .. words, key = more ~= '' and more or nil,
    last = count ~= '-1' and tonumber(count) or nil, age = age ~= '-1' and tonumber(age) or nil,
  }
  if string.sub(text, 1, 1) == '2' then
    local first, logs, data, tombstone
    rule.key, first, logs, data, tombstone =
      string.match(more, '^(.*):(%-?%d+):(%-?%d+):(%-?%d+):(%-?%d+)$')
    if not rule.key then return nil end
    if rule.key == '' then rule.key = nil end
    if first ~= '-1' then rule.first = tonumber(first) end
    if logs ~= '-1' then rule.logs = tonumber(logs) end
    if data ~= '-1' then rule.data = tonumber(data) end
    if tombstone ~= '-1' then rule.tombstone = tonumber(tombstone) end
  end
  if rule.last == 0 then rule.key = nil end
  return rule
end

-- The queue's live rule for an outcome, or nil.
local function live_rule(outcome)
  return parse_rule(ctx.meta('toril.retention.' .. outcome))
end
