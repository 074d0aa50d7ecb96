-- Store facts of one writer, each once, or say how far the server came if it lost what it had acknowledged.
--
-- KEYS  events audits dead_letters fence meta
-- ARGV  writer system trusted seen, then for each of the three kinds:
--         count, acknowledged seq (-1: none), then count times: seq, line
--       trusted is 1 when the server may know less than was acknowledged: what is lost is told elsewhere, then.
--       seen is the server's time of this writer's last acknowledged append, in milliseconds
-- Returns  {"ok", last ids of the three streams ("" where nothing was stored), records, bytes}
--          {"gap", seq of the three fences}: something acknowledged is not there; nothing was stored

local KINDS = { 'event', 'audit', 'dead_letter' }
local writer, system, trusted, seen = ARGV[1], ARGV[2], ARGV[3] == '1', tonumber(ARGV[4])

local parsed, seqs, returned, gap, at = {}, {}, {}, false, 5
for k = 1, 3 do
  local count, acknowledged = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local value = redis.call('HGET', KEYS[4], writer .. '-' .. KINDS[k])
  local f = {}
  if value then
    for part in string.gmatch(value, '%S+') do f[#f + 1] = part end
  end
  parsed[k] = f
  seqs[k] = tonumber(f[1]) or -1
  if seqs[k] < acknowledged and not trusted then
    -- a writer that was silent for long is forgotten on purpose when nothing of it is left (prune.lua)
    local forgotten = #f == 0 and tonumber(redis.call('HGET', KEYS[5], 'forgotten') or '-1') or -1
    if forgotten >= seen then seqs[k], returned[k] = acknowledged, true else gap = true end
  end
  if count > 0 then
    local kind = redis.call('TYPE', KEYS[k])['ok']
    if kind ~= 'stream' and kind ~= 'none' then
      return redis.error_reply('WRONGTYPE ' .. KEYS[k] .. ' is a ' .. kind .. ', not a stream')
    end
  end
  at = at + 2 + 2 * count
end
if gap then return { 'gap', seqs[1], seqs[2], seqs[3] } end

local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local ids, records, bytes = { '', '', '' }, 0, 0
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
    redis.call('HSET', KEYS[4], writer .. '-' .. KINDS[k], string.format('%.0f %.0f %.0f %s %s %.0f 0 %.0f',
      top, held + stored, (tonumber(f[3]) or 0) + size, f[4] or first or '0-0', last or f[5] or '0-0',
      tonumber(f[6]) or 0, ms))
    ids[k] = last or ''
    records, bytes = records + stored, bytes + size
  end
end
redis.call('HSETNX', KEYS[5], 'system', system)
return { 'ok', ids[1], ids[2], ids[3], records, bytes }
