-- Erases a job: what is stored of it, also in its parent; and the events that name it, in slices.
--
-- Keys:      [1] the queue; the parent may be in another queue of the slot
-- Arguments: [1] msgpack {phase = 'job', record, id, now, want_removed, parent_key = that of a job
--                         that is gone, as somebody remembers it, or absent}
--                 or {phase = 'events', id, after = entry of the stream, last = entry}
-- Returns:   job: {code, traces in its parent, kept, effects}; or -20: late. The record keeps no
--            effects, as they hold what is to be erased.
--            code 1: erased, 0: there was no job, -8: the pending iteration of a scheduler,
--            -21: locked, -24: plugins keep it (`kept` says why), -25: its parent has not ended,
--            and has something of it
--            events: {entries deleted, entry to go on behind, or '' at the end}; up to 250 a call
-- Events:    removed {jobId, prev}, for who reads now; the other phase deletes it, too
-- Seam:      removing, removed
--
-- Nothing becomes different for any other job: a parent that has not ended waits for its children,
-- or will read what they left. Whoever means it removes the parent, or lets it end, before.

--- @include "record"
--- @include "take-away"
--- @include "kept"
--- @when removing
--- @include "keep"
--- @end

local PENDING, LOCKED, KEPT, PARENT_OPEN = -8, -21, -24, -25
local PAGE = 250

local Q = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])
local id = request.id

-- Where a parent names its children.
local PLACES = {
  {'processed', 'HEXISTS', 'HDEL'}, {'failed', 'HEXISTS', 'HDEL'},
  {'unsuccessful', 'ZSCORE', 'ZREM'}, {'dependencies', 'SISMEMBER', 'SREM'},
}

-- The places in the parent where the child is named.
local function places_in(parent, key)
  local found = {}
  for _, place in ipairs(parent and PLACES or {}) do
    local there = redis.pcall(place[2], parent.key .. ':' .. place[1], key)
    if type(there) ~= 'table' and there and there ~= 0 then found[#found + 1] = place end
  end
  return found
end

local function has_ended(parent)
  return redis.call('EXISTS', parent.key) == 0
    or redis.call('ZSCORE', parent.queue .. ':completed', parent.id) ~= false
    or redis.call('ZSCORE', parent.queue .. ':failed', parent.id) ~= false
end

-- Why the job cannot be erased, or nil. Writes nothing.
local function obstacle(links, parent, places)
  if redis.call('EXISTS', links.key .. ':lock') == 1 then return LOCKED end
  if is_pending_iteration(Q, id, links) then return PENDING end
--- @when removing
  if is_kept(Q, id, outcome_of(Q, id), 'erase') then return KEPT end
--- @end
  if #places > 0 and not has_ended(parent) then return PARENT_OPEN end
  return nil
end

-- Returns the code, and how many traces there were in the parent.
local function erase()
  local links = links_of(Q, id)
  local parent = links.parent or parent_of(request.parent_key)
  local places = places_in(parent, links.key)
  local code = obstacle(links, parent, places)
  if code then return code, 0 end
  redis.call('SREM', Q .. ':stalled', id)
  redis.call('SREM', Q .. ':toril:stalled:check', id)
  for _, place in ipairs(places) do
    redis.call(place[3], parent.key .. ':' .. place[1], links.key)
  end
  return take_away(Q, id, links, 'erase') and 1 or 0, #places
end

local function names_it(fields)
  for i = 1, #fields, 2 do
    local names = fields[i] == 'jobId' or fields[i] == 'deduplicatedJobId'
    if names and fields[i + 1] == id then return true end
  end
  return false
end

local function erase_events()
  local page = redis.call('XRANGE', Q .. ':events', '(' .. request.after, request.last,
    'COUNT', PAGE)
  local found = {}
  for _, entry in ipairs(page) do
    if names_it(entry[2]) then found[#found + 1] = entry[1] end
  end
  if #found > 0 then redis.call('XDEL', Q .. ':events', unpack(found)) end
  return {#found, #page == PAGE and page[PAGE][1] or ''}
end

if request.phase == 'events' then return erase_events() end

local again = recorded(Q, request.record)
if again then return again end
want_removed = request.want_removed
--- @when removed, removing
seam.now = request.now
--- @end
local code, traces = erase()
-- What wrote nothing may be done again.
if code == 1 or traces > 0 then keep_record(Q, request.record, {code, traces, kept, {}}) end
return {code, traces, kept, effects()}
