-- Correct what stands beside the streams of one tag: the fence, and what is known to be missing.
--
-- KEYS  fence quarantine meta
-- ARGV  token, milliseconds (of the upkeep lock), then for each correction four words:
--         "set" field expected new      the fence's field, if it has the value expected ("": is missing); new "": remove
--         "adjust" field numbers ""     numbers: seq first last records bytes; the first three only ever widen, the
--                                       last two are added. What writers add meanwhile stays counted
--         "seal" field seen ""          note that a writer has ended that was last seen then
--         "note" field value ""         a field of meta, unless it is there
--         "drop" field expected ""      remove a field of meta that has the value expected
-- Returns  {"ok", corrections made}, or {"busy"} when the lock was lost: nothing was done
--
-- Values that are replaced or removed and are none of ours (set of what was there, drop) go to the quarantine.
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local held = redis.call('HGET', KEYS[3], 'upkeep')
if not held or string.match(held, '^(%S+) ') ~= ARGV[1] then return { 'busy' } end
redis.call('HSET', KEYS[3], 'upkeep', string.format('%s %.0f', ARGV[1], ms + tonumber(ARGV[2])))

local OURS = '^%-?%d+ %d+ %d+ %d+%-%d+ %d+%-%d+ %d+ [01] %d+$'

local function keep(key, field, value)
  redis.call('XADD', KEYS[2], '*', 'key', key, 'id', field, 'anomaly', 'segment_digest',
    'time', string.format('%.0f', ms), 'value', value)
end

local function later(a, b)
  local am, an = string.match(a, '^(%d+)-(%d+)$')
  local bm, bn = string.match(b, '^(%d+)-(%d+)$')
  am, an, bm, bn = tonumber(am), tonumber(an), tonumber(bm), tonumber(bn)
  return am > bm or (am == bm and an > bn)
end

local function set(field, expected, new)
  local value = redis.call('HGET', KEYS[1], field) or ''
  if value ~= expected then return 0 end
  if value ~= '' and not (string.match(value, OURS) and new ~= '') then keep(KEYS[1], field, value) end
  if new == '' then redis.call('HDEL', KEYS[1], field) else redis.call('HSET', KEYS[1], field, new) end
  return 1
end

local function adjust(field, numbers)
  local f, n = {}, {}
  local value = redis.call('HGET', KEYS[1], field)
  if not value or not string.match(value, OURS) then return 0 end
  for part in string.gmatch(value, '%S+') do f[#f + 1] = part end
  for part in string.gmatch(numbers, '%S+') do n[#n + 1] = part end
  if later(f[4], n[2]) then f[4] = n[2] end
  if later(n[3], f[5]) then f[5] = n[3] end
  redis.call('HSET', KEYS[1], field, string.format('%.0f %.0f %.0f %s %s %s %s %s',
    math.max(tonumber(f[1]), tonumber(n[1])), math.max(tonumber(f[2]) + tonumber(n[4]), 0),
    math.max(tonumber(f[3]) + tonumber(n[5]), 0), f[4], f[5], f[6], f[7], f[8]))
  return 1
end

local function seal(field, seen)
  local head = string.match(redis.call('HGET', KEYS[1], field) or '', '^(%S+ %S+ %S+ %S+ %S+ %S+) 0 ' .. seen .. '$')
  if not head then return 0 end
  redis.call('HSET', KEYS[1], field, head .. ' 1 ' .. seen)
  return 1
end

local done = 0
for at = 3, #ARGV, 4 do
  local what, field, value, new = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  if what == 'set' then
    done = done + set(field, value, new)
  elseif what == 'adjust' then
    done = done + adjust(field, value)
  elseif what == 'seal' then
    done = done + seal(field, value)
  elseif what == 'note' then
    done = done + redis.call('HSETNX', KEYS[3], field, value)
  elseif what == 'drop' and redis.call('HGET', KEYS[3], field) == value then
    keep(KEYS[3], field, value)
    done = done + redis.call('HDEL', KEYS[3], field)
  end
end
if done > 0 then redis.call('HINCRBY', KEYS[3], 'recovered:notes', done) end
return { 'ok', done }
