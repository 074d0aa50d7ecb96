-- Note that a writer ended in order, or that it lives.
--
-- KEYS  fence
-- ARGV  sealed (1 or 0), then fields
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local done = 0
for i = 2, #ARGV do
  local value = redis.call('HGET', KEYS[1], ARGV[i])
  local head = value and string.match(value, '^(%S+ %S+ %S+ %S+ %S+ %S+) [01] %d+$')
  if head then
    redis.call('HSET', KEYS[1], ARGV[i], string.format('%s %s %.0f', head, ARGV[1], ms))
    done = done + 1
  end
end
return done
