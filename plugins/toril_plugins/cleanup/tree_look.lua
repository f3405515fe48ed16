-- Look at jobs of this queue that belong to a flow which is to go. args = {jobs = {{id, place,
-- cursor}…}, dry}: place and cursor say where the reading of a job's children goes on, at first 1
-- and '0'; dry: nothing is written, not even that a job is held. Returns {queue, jobs = {{status,
-- outcome, finished_on, parent, children, place, cursor}…}}, fewer jobs than asked for if their
-- children were too many for one call. status:
--   gone    there is no such job
--   open    it has not ended, or somebody holds a lock on it
--   held    it has to stay for another reason
--   whole   it goes with its flow
--   other   it has ended, and something else holds for it
-- parent and children are keys. place is nil when all children have been named.
local LOOKS = 1000 -- children named in one call
local WHOLE = 1000 -- so many are read at once

local PLACES = {
  {'processed', 'HLEN', 'HKEYS', 'HSCAN', 2}, {'failed', 'HLEN', 'HKEYS', 'HSCAN', 2},
  {'unsuccessful', 'ZCARD', 'ZRANGE', 'ZSCAN', 2},
  {'dependencies', 'SCARD', 'SMEMBERS', 'SSCAN', 1},
}
local looks = LOOKS

-- Appends the children of one place to `children`. Returns the cursor, '0' at the end.
local function read_place(key, place, cursor, children)
  local at = key .. ':' .. place[1]
  local size = redis.pcall(place[2], at)
  if type(size) ~= 'number' or size == 0 then return '0' end -- not what it should be: nobody's
  local found
  local step = 1
  if size <= WHOLE then
    found = place[3] == 'ZRANGE' and redis.call('ZRANGE', at, 0, -1) or redis.call(place[3], at)
    cursor = '0'
  else
    local page = redis.call(place[4], at, cursor, 'COUNT', 200)
    cursor, found, step = page[1], page[2], place[5]
  end
  for i = 1, #found, step do children[#children + 1] = found[i] end
  looks = looks - #found / step
  return cursor
end

local function read_children(key, place, cursor)
  local children = {}
  while place <= #PLACES and looks > 0 do
    cursor = read_place(key, PLACES[place], cursor, children)
    if cursor == '0' then place = place + 1 end
  end
  if place > #PLACES then place = nil end
  return children, place, cursor
end

-- Its status, and if it has ended: outcome and when.
local function status_of(id, exists)
  local key = ctx.q .. ':' .. id
  if not exists then return 'gone' end
  for _, outcome in ipairs(OUTCOMES) do
    local finished_on = tonumber(redis.call('ZSCORE', finished_key(outcome), id) or nil)
    if finished_on then
      if redis.call('EXISTS', key .. ':lock') == 1 then return 'open' end
      if finished_on >= tonumber(HELD) then return 'held' end
      local known = redis.call('ZSCORE', ctx.own('own:' .. outcome), id)
      local decision = known and stored_decision(id, outcome)
      if not (decision and decision.flow and tonumber(known) == finished_on) then
        return 'other', outcome, finished_on
      end
      if args.dry and held_by(id) then return 'held' end
      if not args.dry and ctx.meta('toril.holds.list') then
        local job = {id = id, finished_on = finished_on, decision = decision, own = true}
        if #gate.unheld(outcome, {job}) == 0 then return 'held' end
      end
      return 'whole', outcome, finished_on
    end
  end
  return 'open'
end

local jobs = {}
for _, asked in ipairs(args.jobs) do
  if looks <= 0 then break end
  local id, place, cursor = unpack(asked)
  local key = ctx.q .. ':' .. id
  local parent = redis.pcall('HGET', key, 'parentKey')
  local status, outcome, finished_on = status_of(id, redis.call('EXISTS', key) == 1)
  local told = {
    status = status, outcome = outcome, finished_on = finished_on, children = {},
    parent = type(parent) == 'string' and parent or '',
  }
  if status == 'whole' or status == 'other' then
    told.children, told.place, told.cursor = read_children(key, place, cursor)
  end
  jobs[#jobs + 1] = told
end
return {queue = ctx.q, jobs = jobs}
