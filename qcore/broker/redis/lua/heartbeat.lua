-- heartbeat: a supervisor says that it lives and reads its orders; records of the silent are dropped.
-- KEYS  fleet      hash  supervisor id -> 8 bytes of Redis time + record
--       control    hash  `restart:HOST:QUEUE` -> `generation exit`
-- ARGV  now_ms     ms    '' for the Redis clock
--       supervisor text  its id
--       record     text  what it says of itself
--       silent_ms  ms    a record that was not renewed for so long is dropped
--       cursor     int   where to go on among the records
-- reply { now_ms, cursor, all of control as field, value, ... }
-- @include clock
local fleet, control = KEYS[1], KEYS[2]
local now_ms, supervisor, record, silent_ms, cursor = unpack(ARGV, 1, 5)

local now = clock(now_ms)
silent_ms = integer(silent_ms)
local stamp = struct.pack('>I8', now)
local page = redis.call('HSCAN', fleet, cursor, 'COUNT', 2)
local orders = redis.call('HGETALL', control)
redis.call('HDEL', fleet, '')
redis.call('HSET', fleet, supervisor, stamp .. record)
for i = 1, #page[2], 2 do
  local id, found = page[2][i], page[2][i + 1]
  local is_old = #found < 8 or math.abs(now - struct.unpack('>I8', found)) > silent_ms
  if is_old and id ~= supervisor then redis.call('HDEL', fleet, id) end
end
return { whole(now), page[1], orders }
