-- Remove hidden entries from one stretch of a stream, and account for each writer, all at once.
--
-- What removes comes first, and writes something always: without memory left, the server lets a script go on that
-- has written before, and refuses one that begins with what takes memory.
--
-- KEYS  stream fence meta quarantine
-- ARGV  kind, token of the upkeep lock ("" for none), forced (1 or 0), after (exclusive), until (inclusive), count of entries at most,
--       then count and each of:
--         entries that go: id, what is wrong with it ("" when it is good)
--         writers: id, everything of it up to which entry goes
--         restored lines that go: id
--         fields of meta to set: field, value
-- Returns  {"ok", entries removed, bytes removed, records accounted for}
--          {"held", group}: a consumer group needs one of them; {"lock"}: somebody else has the lock; nothing was done

local stream, fence, meta, quarantine = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local kind, token, forced, after, untl, most = ARGV[1], ARGV[2], ARGV[3] == '1', ARGV[4], ARGV[5], ARGV[6]
local MARKER = '{"v":1,"writer":"'
local at = 7

local function take(width)
  local count = tonumber(ARGV[at])
  local first = at + 1
  at = at + 1 + count * width
  return count, first
end

local function split(id)
  local ms, number = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(number)
end

local function less(a, b)
  local ams, anumber = split(a)
  local bms, bnumber = split(b)
  return ams < bms or (ams == bms and anumber < bnumber)
end

local function behind(id)
  local ms, number = string.match(id, '^(%d+)-(%d+)$')
  if #number > 15 then return string.format('%.0f-0', tonumber(ms) + 1) end  -- no number of ours
  return string.format('%s-%.0f', ms, tonumber(number) + 1)
end

if token ~= '' then
  local holder = redis.call('HGET', meta, 'upkeep')
  if not holder or string.sub(holder, 1, #token) ~= token then return { 'lock' } end
end

-- what goes
local going, last = {}, nil
local count, first = take(2)
for i = first, first + 2 * count - 1, 2 do
  going[ARGV[i]] = ARGV[i + 1]
  if not last or less(last, ARGV[i]) then last = ARGV[i] end
end
local floors, order = {}, {}
count, first = take(2)
for i = first, first + 2 * count - 1, 2 do
  floors[ARGV[i]] = ARGV[i + 1]
  order[#order + 1] = ARGV[i]
end
local restored = {}
count, first = take(1)
for i = first, first + count - 1 do restored[#restored + 1] = ARGV[i] end
local fields, fields_first = take(2)

-- whom it would be missing for
if last and not forced and redis.call('EXISTS', stream) == 1 then
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local about = {}
    for i = 1, #group, 2 do about[group[i]] = group[i + 1] end
    local lowest = redis.call('XPENDING', stream, about['name'])[2]
    if less(about['last-delivered-id'], last) or (lowest and not less(last, lowest)) then
      return { 'held', about['name'] }
    end
  end
end

local gone, kept_any, quarantined = {}, false, {}
local tally = {}  -- writer -> { records, bytes, low }
local function account(line, good)
  if not good or string.sub(line, 1, #MARKER) ~= MARKER then return end
  local writer = string.sub(line, #MARKER + 1, #MARKER + 16)
  local seq = tonumber(string.match(line, '^","seq":(%d+)', #MARKER + 17))
  local t = tally[writer]
  if not t then
    local value = redis.call('HGET', fence, writer .. '-' .. kind)
    t = { records = 0, bytes = 0, low = value and tonumber(string.match(value, '^%S+ %S+ %S+ %S+ %S+ (%d+)')) or 0 }
    tally[writer] = t
  end
  if seq and seq >= t.low then  -- a second copy was never counted
    t.records, t.bytes, t.low = t.records + 1, t.bytes + #line, seq + 1
  end
end

local lines, bytes = {}, 0
for _, entry in ipairs(redis.call('XRANGE', stream, '(' .. after, untl, 'COUNT', most)) do
  local id, data = entry[1], entry[2]
  local wrong = going[id]
  if wrong == nil then
    kept_any = true
  else
    gone[#gone + 1] = id
    for i = 2, #data, 2 do bytes = bytes + #data[i] end
    if wrong == '' then lines[#lines + 1] = { id, data[2] } else quarantined[#quarantined + 1] = { entry, wrong } end
  end
end
for _, id in ipairs(restored) do
  local line = redis.call('HGET', meta, 'restored:' .. kind .. ':' .. id)
  if line then
    bytes = bytes + #line
    lines[#lines + 1] = { id, line }
  end
end
table.sort(lines, function(a, b) return less(a[1], b[1]) end)
for _, line in ipairs(lines) do account(line[2], true) end

-- remove
redis.call('HDEL', meta, 'verified:' .. kind)
if #gone > 0 then
  local head = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1][1]
  if head == gone[1] and not kept_any then
    redis.call('XTRIM', stream, 'MINID', behind(gone[#gone]))
  else
    redis.call('XDEL', stream, unpack(gone))
  end
end
for _, id in ipairs(restored) do redis.call('HDEL', meta, 'restored:' .. kind .. ':' .. id) end

-- keep what is damaged
local now = redis.call('TIME')
local ms = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
for _, each in ipairs(quarantined) do
  redis.call('XADD', quarantine, '*', 'key', stream, 'id', each[1][1], 'anomaly', each[2], 'time', ms, unpack(each[1][2]))
end

-- account
local records = 0
for _, writer in ipairs(order) do
  local field, cut, t = writer .. '-' .. kind, floors[writer], tally[writer]
  local value = redis.call('HGET', fence, field)
  local f = {}
  for part in string.gmatch(value or '', '%S+') do f[#f + 1] = part end
  if #f == 8 then
    local held, size, begin, low = tonumber(f[2]), tonumber(f[3]), f[4], tonumber(f[6])
    if t then
      records = records + t.records
      held, size, low = math.max(held - t.records, 1), math.max(size - t.bytes, 0), math.max(low, t.low)
    end
    if less(begin, behind(cut)) then begin = behind(cut) end
    if not less(cut, f[5]) then held, size, begin = 0, 0, f[4] end
    redis.call('HSET', fence, field, string.format('%s %.0f %.0f %s %s %.0f %s %s',
      f[1], held, size, begin, f[5], low, f[7], f[8]))
  end
end
for i = fields_first, fields_first + 2 * fields - 1, 2 do redis.call('HSET', meta, ARGV[i], ARGV[i + 1]) end
return { 'ok', #gone, bytes, records }
