-- Give a key that holds something else than it should another name, if that is free.
--
-- KEYS  key target
-- ARGV  the type that it should have
-- Returns  "ok", "right" (it has that type, or is not there) or "taken"
local found = redis.call('TYPE', KEYS[1])['ok']
if found == 'none' or found == ARGV[1] then return 'right' end
if redis.call('EXISTS', KEYS[2]) == 1 then return 'taken' end
redis.call('RENAME', KEYS[1], KEYS[2])
return 'ok'
