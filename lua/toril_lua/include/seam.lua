--- @include "effects"
--- @include "events"
-- Calling the chunks of plugins. ACTIVE_PLUGINS (the names of the plugins that the process runs)
-- and `chunks_of_plugins` stand above this text, made by the catalogue. CHUNKS[point] = {{plugin,
-- function(ctx)}, ...}; CHUNK_META: the fields of `meta` that they read.
-- `seam` is the state of the call; a chunk never sees it, only the functions in `ctx`. `jobs`: what
-- lists the jobs of a batch.

local CHUNKS, CHUNK_META = chunks_of_plugins()
local MAX_CHUNK_ERRORS, MAX_REPORTS = 20, 32767
local NOBODY = {}

-- `whole`: the queue of which `meta` has all fields.
local seam = {queue = nil, plugin = '', now = 0, meta = {}, whole = nil, seen = {}}

local function own_key(suffix)
  return seam.queue .. ':toril:' .. seam.plugin .. ':' .. suffix
end

-- A field of the queue's meta. Read together with all declared fields that have not been read.
local function meta_field(field)
  local known = seam.meta[seam.queue] or {}
  seam.meta[seam.queue] = known
  if known[field] == nil and seam.whole ~= seam.queue then
    local fields = {field}
    for _, name in ipairs(CHUNK_META) do
      if known[name] == nil and name ~= field then fields[#fields + 1] = name end
    end
    local read = redis.call('HMGET', seam.queue .. ':meta', unpack(fields))
    for i, name in ipairs(fields) do known[name] = read[i] end
  end
  return known[field] or nil
end

local function add_writing(ctx)
  function ctx.set_meta(field, value)
    local prefix = 'toril.' .. seam.plugin .. '.'
    if string.sub(field, 1, #prefix) ~= prefix then
      error('a plugin sets only fields that begin with ' .. prefix)
    end
    local text = value
    if type(value) == 'number' then text = string.format('%.17g', value) end
    if value == nil then
      redis.call('HDEL', seam.queue .. ':meta', field)
    else
      redis.call('HSET', seam.queue .. ':meta', field, text)
    end
    if seam.meta[seam.queue] then seam.meta[seam.queue][field] = text or false end
  end

  function ctx.emit(event, fields)
    if string.sub(event, 1, 6) ~= 'toril:' then error('a plugin\'s events begin with toril:') end
    local flat = {}
    for name, value in pairs(fields or {}) do
      flat[#flat + 1] = name
      flat[#flat + 1] = value
    end
    emit_capped(seam.queue, event, unpack(flat))
  end

  function ctx.report(value)
    if #(effects_told.reports or NOBODY) == MAX_REPORTS then
      error('a call takes no more reports')
    end
    note('reports', cmsgpack.pack(seam.plugin, value))
  end
end

local function with_plans_of(plugin, jobs)
  for _, job in ipairs(jobs) do job.plan = job.plans and job.plans[plugin] end
  return jobs
end

-- What few chunks call is made when one asks for it first; each definition costs every call.
-- `add_removals` is there where plugins may remove jobs, see `seam-remove`.
local ON_DEMAND = {__index = function(ctx, name)
  if name == 'emit' or name == 'report' or name == 'set_meta' then
    add_writing(ctx)
  elseif seam.add_removals and rawget(ctx, 'announce') ~= nil then
    if name == 'remove_all' or name == 'remove_known' or name == 'refused' or name == 'remove'
      or name == 'strip' then
      seam.add_removals(ctx)
    elseif name == 'jobs' and seam.jobs then
      ctx.jobs = with_plans_of(seam.plugin, seam.jobs())
    end
  end
  return rawget(ctx, name)
end}

local function new_ctx(Q)
  return setmetatable({
    q = Q, now = seam.now, budget = 0, plugins = ACTIVE_PLUGINS, own = own_key, meta = meta_field,
  }, ON_DEMAND)
end

local function note_chunk_error(plugin, point, message)
  if type(message) == 'table' then message = message.err end
  if #(effects_told.errors or NOBODY) < MAX_CHUNK_ERRORS then
    note('errors', {plugin, point, tostring(message)})
  end
end

-- Calls every chunk of a point with `ctx`, each on its own. One may run inside another: a removal
-- within `finished` calls `removed`. `plans`: what each plugin planned, by its name, or nil;
-- `except`: a plugin whose chunks are not called, or nil. Returns the plugins whose chunk broke.
local function run_chunks(point, Q, ctx, plans, except)
  local outer_queue, outer_plugin = seam.queue, seam.plugin
  local broken = NOBODY
  for _, chunk in ipairs(CHUNKS[point] or NOBODY) do
    local plugin = chunk[1]
    if plugin ~= except then
      seam.queue, seam.plugin = Q, plugin
      seam.seen[plugin] = seam.seen[plugin] or {}
      ctx.seen = seam.seen[plugin]
      ctx.plan = plans and plans[plugin]
      with_plans_of(plugin, rawget(ctx, 'jobs') or NOBODY)
      local ok, message = pcall(chunk[2], ctx)
      if not ok then
        note_chunk_error(plugin, point, message)
        broken = {plugin, unpack(broken)}
      end
    end
  end
  seam.queue, seam.plugin = outer_queue, outer_plugin
  return broken
end
