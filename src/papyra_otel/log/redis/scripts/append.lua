-- Store facts of one writer, each once, or say how far the server came if it lost what it had acknowledged.
--
-- KEYS  events audits dead_letters fence meta
-- ARGV  writer system trusted seen, then for each of the three kinds:
--         count, the writer's fence as it was told last ("" before the first time), then count times: seq, line
--       trusted is 1 when nobody knows what was acknowledged: nothing is a gap, then.
--       seen is the server's time of this writer's last acknowledged append, in milliseconds
-- Returns  {"ok", the three fences ("" where nothing was to be stored), records, bytes}
--          {"gap", the three fences}: something acknowledged is not there; nothing was stored

local KINDS = { 'event', 'audit', 'dead_letter' }
local writer, system, trusted, seen = ARGV[1], ARGV[2], ARGV[3] == '1', tonumber(ARGV[4])

local function split(value)
  local f = {}
  for part in string.gmatch(value or '', '%S+') do f[#f + 1] = part end
  return f
end

local function before(a, b)
  local ams, anumber = string.match(a, '^(%d+)-(%d+)$')
  local bms, bnumber = string.match(b, '^(%d+)-(%d+)$')
  ams, bms = tonumber(ams), tonumber(bms)
  return ams < bms or (ams == bms and tonumber(anumber) < tonumber(bnumber))
end

-- First of all something is written, if only in principle: a replica refuses that, and so does a server without
-- memory. What a replica has or has not is no loss.
local named = redis.pcall('HSETNX', KEYS[5], 'system', system)
if type(named) == 'table' and named.err and not string.find(named.err, 'WRONGTYPE') then return named end

-- A fence that is lost alone (deleted, evicted) is as this writer knows it: its last entry stands where it stood.
local function known(k, f)
  if #f ~= 8 then return nil end
  local entry = redis.call('XRANGE', KEYS[k], f[5], f[5])[1]
  local line = entry and entry[2][2] or ''
  local begin = '{"v":1,"writer":"' .. writer .. '","seq":' .. f[1] .. ','
  return string.sub(line, 1, #begin) == begin and f or nil
end

-- Whether all of this writer's entries went, but not by our hands, which would have noted it in the fence: the
-- stream was deleted, evicted, renamed or trimmed. One that was put right may stand in meta instead.
local function is_gone(k, f)
  if (tonumber(f[2]) or 0) == 0 then return false end
  local head = redis.call('XRANGE', KEYS[k], '-', '+', 'COUNT', 1)[1]
  if head and not before(f[5], head[1]) then return false end
  local restored = redis.pcall('HEXISTS', KEYS[5], 'restored:' .. KINDS[k] .. ':' .. f[5])
  return restored ~= 1
end

local parsed, seqs, returned, gap, at = {}, {}, {}, false, 5
for k = 1, 3 do
  local count, told = tonumber(ARGV[at]), split(ARGV[at + 1])
  local acknowledged = tonumber(told[1]) or -1
  local kind = redis.call('TYPE', KEYS[k])['ok']
  local f = split(redis.call('HGET', KEYS[4], writer .. '-' .. KINDS[k]))
  if kind == 'stream' or kind == 'none' then
    if #f == 0 then f = known(k, told) or f end
    if is_gone(k, f) then f = split(string.format('%d 0 0 0-0 0-0 %s 0 0', tonumber(f[6]) - 1, f[6])) end
  elseif count > 0 then
    return redis.error_reply('WRONGTYPE ' .. KEYS[k] .. ' is a ' .. kind .. ', not a stream')
  end
  parsed[k] = f
  seqs[k] = tonumber(f[1]) or -1
  if seqs[k] < acknowledged and not trusted then
    -- a writer that was silent for long is forgotten on purpose when nothing of it is left (prune.lua)
    local forgotten = #f == 0 and tonumber(redis.pcall('HGET', KEYS[5], 'forgotten') or '-1') or -1
    if forgotten >= seen then seqs[k], returned[k] = acknowledged, true else gap = true end
  end
  at = at + 2 + 2 * count
end
if gap then
  return { 'gap', table.concat(parsed[1], ' '), table.concat(parsed[2], ' '), table.concat(parsed[3], ' ') }
end

local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local fences, records, bytes = { '', '', '' }, 0, 0
at = 5
for k = 1, 3 do
  local count, f = tonumber(ARGV[at]), parsed[k]
  local stored, size, first, last, top = 0, 0, nil, nil, seqs[k]
  at = at + 2
  for _ = 1, count do
    local seq, line = tonumber(ARGV[at]), ARGV[at + 1]
    at = at + 2
    if seq > top then
      last = redis.call('XADD', KEYS[k], '*', 'data', line)
      first = first or last
      top, stored, size = seq, stored + 1, size + #line
    end
  end
  if returned[k] then f[6] = seqs[k] + 1 end  -- all before was removed
  if count > 0 or returned[k] then
    -- also when all was there already: who waits for replicas waits for this write
    local held = tonumber(f[2]) or 0
    if held == 0 then f[4] = first or f[4] end
    fences[k] = string.format('%.0f %.0f %.0f %s %s %.0f 0 %.0f', top, held + stored, (tonumber(f[3]) or 0) + size,
      f[4] or first or '0-0', last or f[5] or '0-0', tonumber(f[6]) or 0, ms)
    redis.call('HSET', KEYS[4], writer .. '-' .. KINDS[k], fences[k])
    records, bytes = records + stored, bytes + size
  end
end
return { 'ok', fences[1], fences[2], fences[3], records, bytes }
