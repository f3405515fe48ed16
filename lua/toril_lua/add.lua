-- Adds jobs: standard, delayed, prioritised, parents of a flow; also the steps of a large flow.
--
-- Keys:      [1] the queue (of a flow: the root's), [2...] the other queues
-- Arguments: [1] msgpack {now, record, nodes = {node, ...}, terms = {terms, ...}, whole, check,
--            links, flow, want_removed,
--            special}
--            node = {id, name, data, timestamp, toril, terms = number of its terms}
--            terms = {q = number of the queue, opts, delay, priority, lifo, parent_key, parent,
--            inner, is_parent, counter, given, deid, window = {id, ttl, extend, replace, keep,
--            reschedule}}: what nodes may have in common; it reads as if it were theirs. A lone
--            node says it itself. delay, priority: only if they are not 0. special: there is
--            more than nodes with a queue, opts and counter.
--            inner: the parent is in the same flow. counter: the id is the next of the queue's
--            counter. given: the caller gave the id. Parents stand before their children.
--            whole = {size, ...}: the nodes are those of so many flows, one after another, each
--            added whole or not at all, and none after one that is not. check: look only.
--            links = {{parent key, {child key, ...}}, ...}: children that come in later steps.
--            flow = {root, lease (ms), nodes, first}: the step belongs to a large flow; first: is
--            its first one; without nodes = it is done.
-- Returns:   {1 if written else 0, results, effects}; or 1: {1, {}, ''}; or -20: late; or -26: the
--            large flow is being taken back, or has been. results = {{number of the node, id, 1 if
--            it existed, code}, ...}, without the nodes that were simply written under their ids.
--            Codes: 0 done, -5 no such parent, -7 it has another living parent, -23 garbled.
-- Events:    added, waiting, delayed, waiting-children, duplicated, deduplicated, removed
-- Seam:      adding, saved, removing, removed
--
-- A job whose id was given is not added if a plugin says that it is a duplicate, nor is what is
-- below it in a flow: as if it existed, and had ended.

--- @include "record"
--- @include "events"
--- @include "marker"
--- @include "store"
--- @include "effects"
--- @include "saved"

local OK, NO_PARENT, OTHER_PARENT, CORRUPT, TAKEN_BACK = 0, -5, -7, -23, -26

local Q = KEYS[1]
local request = cmsgpack.unpack(ARGV[1])
local now, record, nodes = request.now, request.record, request.nodes

-- Functions are made anew in each call, so those that only some calls need are made where a node
-- asks for them.
local has_places, has_parents, has_given, has_windows -- whether some node has
if request.special then
  for _, terms in ipairs(request.terms or nodes) do
    has_places = has_places or terms.delay or terms.priority or terms.lifo or terms.is_parent
    has_parents = has_parents or terms.parent_key
    has_given = has_given or terms.given
    has_windows = has_windows or terms.window
  end
end
if request.terms then
  for i, terms in ipairs(request.terms) do request.terms[i] = {__index = terms} end
  for _, node in ipairs(nodes) do setmetatable(node, request.terms[node.terms]) end
end

local DONE = 1 -- the reply where there is nothing to tell
local meta = redis.call('HMGET', Q .. ':meta', 'paused', 'concurrency', 'opts.maxLenEvents')
local simple = record and meta[3] and not request.special
local again
if simple then again = recorded_or_begun(Q, record, DONE) else again = recorded(Q, record) end
if again then return again end

local NONE = {}
local done_children = NONE -- {key, JSON} of parents that got the result of a child from before
local left_out = NONE -- keys of nodes that are not added, as a plugin calls them duplicates
local children = NONE -- key of a parent in the same flow: keys of its children
local delayed = NONE -- queues that need a marker for their delayed jobs
if request.special then done_children, left_out, children, delayed = {}, {}, {}, {} end
local pushed = {} -- queues that need a marker
local created -- the key of the hash being written
-- Only if there are several nodes: keys of those that have been added; and, by queue, ids that go
-- to the list of its waiting jobs together.
local written, gathered
if #nodes > 1 then written, gathered = {}, {} end
local existed, codes = {}, {} -- numbers of nodes: true if it existed, and what stands against it
local results = {}

local keys = {}
for _, node in ipairs(nodes) do
  if not node.counter then
    node.key = KEYS[node.q] .. ':' .. node.id
    keys[#keys + 1] = node.key
  end
end
-- Whether no node's job was there before this call: asked in one command for all of them.
local all_new = #keys == 0 or redis.call('EXISTS', unpack(keys)) == 0

local function is_there(key)
  return (not all_new or (written and written[key])) and redis.call('EXISTS', key) == 1
end

local kin -- what jobs with parents, and flows, need
if has_parents or request.whole or request.check or request.flow or request.links then
  local family, living = {}, {} -- living: keys of parents known to exist
  kin = family

  function family.exists(key)
    if not living[key] and ((written and written[key]) or redis.call('EXISTS', key) == 1) then
      living[key] = true
    end
    return living[key] or false
  end

  local function link(parent_key, key)
    redis.call('SADD', parent_key .. ':dependencies', key)
  end

  -- A new job becomes a child of its parent; the children of one in the same flow, together.
  function family.join_parent(node, key)
    if node.inner then
      local keys_of_children = children[node.parent_key] or {}
      children[node.parent_key] = keys_of_children
      keys_of_children[#keys_of_children + 1] = key
    else
      link(node.parent_key, key)
    end
  end

  -- What stands against adding a node, or OK.
  local function objection(node)
    if not node.parent_key then return OK end
    if not node.inner and not family.exists(node.parent_key) then return NO_PARENT end
    if not is_there(node.key) then return OK end
    local current = redis.call('HGET', node.key, 'parentKey')
    if current and current ~= node.parent_key and redis.call('EXISTS', current) == 1 then
      return OTHER_PARENT
    end
    return OK
  end
  family.objection = objection

  -- What stands against the nodes of a flow, from one number to another, as results.
  function family.objections(first, last)
    local found = {}
    for i = first, last do
      local node = nodes[i]
      local code = objection(node)
      if code ~= OK then found[#found + 1] = {i, node.id, 0, code} end
    end
    return found
  end

  -- Makes an existing job the child of the node's parent.
  function family.adopt(queue, node, key)
    if redis.call('ZSCORE', queue .. ':completed', node.id) then
      local result = redis.call('HGET', key, 'returnvalue') or 'null'
      redis.call('HSET', node.parent_key .. ':processed', key, result)
      redis.call('SREM', node.parent_key .. ':dependencies', key)
      done_children[#done_children + 1] = {node.parent_key, node.parent}
    else
      link(node.parent_key, key)
    end
    redis.call('HSET', key, 'parentKey', node.parent_key, 'parent', node.parent)
  end

  -- Whether the node's parent in the flow was left out, in this step or an earlier one.
  function family.is_below_left_out(node)
    return node.inner
      and (left_out[node.parent_key] or (request.flow and not family.exists(node.parent_key)))
  end

  -- A large flow under way is listed until its last step, with what it has made (`+key`) and the
  -- parents that it found (`=key`), so that one that is never finished can be taken back.
  function family.note_flow(flow)
    local flows = Q .. ':toril:flows'
    local listed = flows .. ':' .. flow.root
    if not flow.nodes then
      redis.call('UNLINK', listed)
      redis.call('ZREM', flows, flow.root)
      return
    end
    local fields = {'nodes', flow.nodes, 'lease', int(flow.lease)}
    for i, node in ipairs(nodes) do
      if not codes[i] and (not existed[i] or node.is_parent) then
        fields[#fields + 1] = (existed[i] and '=' or '+') .. KEYS[node.q] .. ':' .. node.id
        fields[#fields + 1] = ''
      end
    end
    redis.call('HSET', listed, unpack(fields))
    redis.call('ZADD', flows, flow.lease, flow.root)
  end

  -- Whether a large flow is being taken back, or has been, as its last step is too long ago.
  function family.is_taken_back(flow)
    local stored = redis.call('HMGET', Q .. ':toril:flows:' .. flow.root, 'nodes', 'back')
    return stored[2] ~= false or (not flow.first and not stored[1])
  end
end

local place_elsewhere -- puts a node where a job does not simply wait
local mark_late -- the marker of a queue with delayed jobs
if has_places then
--- @local "enqueue"
  mark_late = mark_delayed
  place_elsewhere = function(queue, node)
    if node.is_parent then
      redis.call('ZADD', queue .. ':waiting-children', node.timestamp, node.id)
      emit_capped(queue, 'waiting-children', 'jobId', node.id)
    elseif push_new(queue, node.id, node) then
      delayed[queue] = true
    else
      pushed[queue] = true
    end
  end
end
--- @when adding

-- Whether a plugin calls a new job, whose id the caller gave, a duplicate: nobody waits for it.
local is_refused
if has_given then
--- @local "seam"
  seam.now = now
  is_refused = function(queue, node)
    local refused = false
    local ctx = new_ctx(queue)
    ctx.id, ctx.key, ctx.name, ctx.parent_key = node.id, node.key, node.name, node.parent_key
    ctx.duplicate = function() refused = true end
    run_chunks('adding', queue, ctx)
    if refused and node.parent_key then
      done_children[#done_children + 1] = {node.parent_key, node.parent}
    end
    return refused
  end
end
--- @end

local deduplicated_by -- the owner of a node's window, if that keeps the node from being added
if has_windows then
--- @local "open_window"
  want_removed = request.want_removed
--- @when removing, removed
  seam.now = now
--- @end
  deduplicated_by = rejected_by
end

-- Returns true if the job existed, and what stands against it.
local function add(node)
  local queue = KEYS[node.q]
  if node.counter then
    repeat
      node.id = int(redis.call('INCR', queue .. ':id'))
      node.key = queue .. ':' .. node.id
    until redis.call('EXISTS', node.key) == 0
  end
  local key = node.key
  if node.parent_key then
    if not request.whole then -- else it has been looked at with its flow
      local code = kin.objection(node)
      if code ~= OK then return nil, code end
    end
    if kin.is_below_left_out(node) then
      left_out[key] = true
      return true
    end
  end
  if is_there(key) then
    if node.parent_key then kin.adopt(queue, node, key) end
    emit_capped(queue, 'duplicated', 'jobId', node.id)
    return true
  end
--- @when adding
  if node.given and is_refused(queue, node) then
    left_out[key] = true
    emit_capped(queue, 'duplicated', 'jobId', node.id)
    return true
  end
--- @end
  local owner = node.window and deduplicated_by(queue, node)
  if owner then
    node.id = owner
    return true
  end
  created = key
  store_job(queue, node.id, node)
  local ids = gathered and gathered[queue]
  if place_elsewhere and (node.delay or node.priority or node.lifo or node.is_parent) then
    place_elsewhere(queue, node)
    ids = nil
  else
    if not ids then
      redis.call('LPUSH', queue .. ':wait', node.id)
      pushed[queue] = true
      -- The list has taken one, so it is a list, and will take those that come after it.
      if gathered then gathered[queue] = {} end
    end
    emit_capped(queue, 'waiting', 'jobId', node.id)
  end
  if node.parent_key then kin.join_parent(node, key) end
  if ids then ids[#ids + 1] = node.id end
  created = nil
  if written then written[key] = true end
end

if request.flow and kin.is_taken_back(request.flow) then return TAKEN_BACK end
local against_first -- what stands against the first flow
if request.whole or request.check then
  against_first = kin.objections(1, request.check and #nodes or request.whole[1])
  if request.check or #against_first > 0 then return {0, against_first, effects()} end
end

local most_events = meta[3] or DEFAULT_MAX_EVENTS
if not simple then -- refused whole by a full server, before anything else is written
  redis.call('HSET', Q .. ':meta', 'opts.maxLenEvents', most_events)
end
max_events(Q, most_events)

--- @when saved
seam.now = now
--- @end

if request.whole then
  -- Returns what stands against the flow, if something does.
  local function add_flow(first, last)
    local found = first == 1 and against_first or kin.objections(first, last)
    for i = first, #found == 0 and last or 0 do
      existed[i], codes[i] = add(nodes[i])
    end
    return found
  end

  local first = 1
  for _, size in ipairs(request.whole) do
    local ok, found = pcall(add_flow, first, first + size - 1)
    if not ok then
      if first == 1 then error(found, 0) end
      -- Those before it are settled all the same.
      if created then redis.call('DEL', created) end
      found = {{first, nodes[first].id, 0, CORRUPT}}
    end
    for _, against in ipairs(found) do results[#results + 1] = against end
    if #found > 0 then break end
    first = first + size
  end
else
  for i, node in ipairs(nodes) do
    local ok
    ok, existed[i], codes[i] = pcall(add, node)
    if not ok then
      if created then redis.call('DEL', created) end
      if node.window then -- it was taken for a job that could not be written
        local window = KEYS[node.q] .. ':de:' .. node.window.id
        if redis.pcall('GET', window) == node.id then redis.call('DEL', window) end
      end
      existed[i], codes[i], created = nil, CORRUPT, nil
    end
  end
end
for i, node in ipairs(nodes) do
  if existed[i] or codes[i] or (node.counter and node.id ~= '') then
    results[#results + 1] = {i, node.id, existed[i] and 1 or 0, codes[i] or OK}
  end
end
if gathered then
  for queue, ids in pairs(gathered) do
    if #ids > 0 then redis.call('LPUSH', queue .. ':wait', unpack(ids)) end
  end
end
if kin then
  for parent_key, keys_of_children in pairs(children) do
    redis.call('SADD', parent_key .. ':dependencies', unpack(keys_of_children))
  end
  for _, link in ipairs(request.links or {}) do
    if kin.exists(link[1]) then
      redis.call('SADD', link[1] .. ':dependencies', unpack(link[2]))
    end
  end
end
if #done_children > 0 then
--- @local "parent"
  for _, named in ipairs(done_children) do
    local parent = parent_of(named[1], named[2])
    if parent then release_if_done(parent, now) end
  end
end
if mark_late then
  for queue in pairs(delayed) do mark_late(queue) end
end
for queue in pairs(pushed) do
  local held
  if queue == Q then held = is_blocked(Q, meta[1], meta[2]) else held = blocked_now(queue) end
  if not held then mark(queue) end
end

if request.flow then kin.note_flow(request.flow) end
--- @when saved

for i, node in ipairs(nodes) do
  if not existed[i] and not codes[i] then
    tell_saved(KEYS[node.q], node.id, node)
  end
end
--- @end

local beside = effects()
if #results > 0 or beside ~= '' then return keep_record(Q, record, {1, results, beside}) end
return simple and DONE or keep_record(Q, record, DONE)
