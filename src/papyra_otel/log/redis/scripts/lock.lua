-- Take, keep or give back the right to recover or compact the streams of one tag.
--
-- KEYS  meta
-- ARGV  what (take, renew, release), token, milliseconds that it is valid for
-- Returns  {"ok"}, or {"busy", milliseconds until who has it loses it, who}
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local token, expiry
local held = redis.call('HGET', KEYS[1], 'upkeep')
if held then token, expiry = string.match(held, '^(%S+) (%d+)$') end
local mine = token == ARGV[2]
if ARGV[1] == 'release' then
  if mine then redis.call('HDEL', KEYS[1], 'upkeep') end
  return { 'ok' }
end
-- who takes it anew after it was lost may not go on with what was planned before: renew is not take
if ARGV[1] == 'renew' and not mine then return { 'busy', 0, token or '' } end
if token and not mine and tonumber(expiry) > ms then return { 'busy', tonumber(expiry) - ms, token } end
redis.call('HDEL', KEYS[1], 'upkeep') -- without memory left the server lets a script set something only behind something removed
redis.call('HSET', KEYS[1], 'upkeep', string.format('%s %.0f', ARGV[2], ms + tonumber(ARGV[3])))
return { 'ok' }
