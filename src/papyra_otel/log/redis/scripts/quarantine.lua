-- Move damaged entries out of a stream, whole, and put the lines that are right into their places.
--
-- KEYS  stream quarantine fence meta
-- ARGV  token, milliseconds (of the upkeep lock), kind, then for each entry:
--         id, digest of what was looked at, anomaly, field of the fence that counts it ("": none),
--         number of lines to be restored, then for each of them: id, line
-- Returns  {"ok", entries moved, their bytes, lines restored}, or {"busy"} when the lock was lost: nothing was done
--
-- What is kept of an entry: the fields key, id, anomaly, time, then its own as they were. Of one with thousands of
-- fields these are joined in one called packed: <length>:<bytes> each.
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local held = redis.call('HGET', KEYS[4], 'upkeep')
if not held or string.match(held, '^(%S+) ') ~= ARGV[1] then return { 'busy' } end
redis.call('HSET', KEYS[4], 'upkeep', string.format('%s %.0f', ARGV[1], ms + tonumber(ARGV[2])))

local function later(a, b)
  local am, an = string.match(a, '^(%d+)-(%d+)$')
  local bm, bn = string.match(b, '^(%d+)-(%d+)$')
  am, an, bm, bn = tonumber(am), tonumber(an), tonumber(bm), tonumber(bn)
  return am > bm or (am == bm and an > bn)
end

local moved, size, lines, at = 0, 0, 0, 4
while at <= #ARGV do
  local id, digest, anomaly, field, count = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 4])
  local restored = at + 5
  at = restored + 2 * count
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  if entry then
    local fields, packed, data = entry[2], {}, 0
    for i = 1, #fields do packed[i] = #fields[i] .. ':' .. fields[i] end
    packed = table.concat(packed)
    if redis.sha1hex(packed) == digest then
      local kept = { 'key', KEYS[1], 'id', id, 'anomaly', anomaly, 'time', string.format('%.0f', ms) }
      if #fields > 4000 then
        kept[9], kept[10] = 'packed', packed
      else
        for i = 1, #fields do kept[8 + i] = fields[i] end
      end
      if #fields == 2 and fields[1] == 'data' then
        data = #fields[2]
      else
        for i = 1, #fields do data = data + #fields[i] end
      end
      redis.call('XADD', KEYS[2], '*', unpack(kept))
      redis.call('XDEL', KEYS[1], id)
      moved, size, lines = moved + 1, size + data, lines + count
      local f = {}
      local value = field ~= '' and redis.call('HGET', KEYS[3], field)
      if value then
        for part in string.gmatch(value, '%S+') do f[#f + 1] = part end
      end
      local records, bytes, last = -1, -data, f[5]
      for i = 0, count - 1 do
        local place, line = ARGV[restored + 2 * i], ARGV[restored + 2 * i + 1]
        redis.call('HSET', KEYS[4], 'restored:' .. ARGV[3] .. ':' .. place, line)
        records, bytes = records + 1, bytes + #line
        if last and later(place, last) then last = place end
      end
      if #f == 8 then
        redis.call('HSET', KEYS[3], field, string.format('%s %.0f %.0f %s %s %s %s %s', f[1],
          math.max(tonumber(f[2]) + records, 0), math.max(tonumber(f[3]) + bytes, 0), f[4], last, f[6], f[7], f[8]))
      end
    end
  end
end
if moved > 0 then
  redis.call('HINCRBY', KEYS[4], 'recovered:spans', moved)
  redis.call('HINCRBY', KEYS[4], 'recovered:bytes', size)
  redis.call('HINCRBY', KEYS[4], 'recovered:lines', lines)
end
return { 'ok', moved, size, lines }
