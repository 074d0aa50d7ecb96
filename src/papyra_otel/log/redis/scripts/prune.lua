-- Forget writers of which nothing is left and that were silent for long. What is remembered is until when the
-- latest of them was seen: append lets one of them that comes back go on.
--
-- KEYS  fence meta
-- ARGV  silent for at least (ms), then writers
-- Returns  the writers that were forgotten

local KINDS = { 'event', 'audit', 'dead_letter' }
local now = redis.call('TIME')
local latest = now[1] * 1000 + math.floor(now[2] / 1000) - tonumber(ARGV[1])
local forgotten = tonumber(redis.call('HGET', KEYS[2], 'forgotten') or '-1') or -1
local gone = {}
for i = 2, #ARGV do
  local fields, seen, silent = {}, -1, true
  for _, kind in ipairs(KINDS) do
    local field = ARGV[i] .. '-' .. kind
    local value = redis.call('HGET', KEYS[1], field)
    if value then
      local records, last, at = string.match(value, '^%S+ (%d+) %S+ %S+ (%d+)%-%d+ %S+ %S+ (%d+)$')
      if records ~= '0' then silent = false break end
      seen = math.max(seen, tonumber(last), tonumber(at))  -- identifiers go on when the clock steps back
      if tonumber(at) > latest then silent = false end
      fields[#fields + 1] = field
    end
  end
  if silent and #fields > 0 then
    redis.call('HDEL', KEYS[1], unpack(fields))
    forgotten = math.max(forgotten, seen)
    gone[#gone + 1] = ARGV[i]
  end
end
if #gone > 0 then redis.call('HSET', KEYS[2], 'forgotten', string.format('%.0f', forgotten)) end
return gone
