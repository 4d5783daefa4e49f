-- prune: completed, cancelled -> -, outcomes whose time is over; and producers not heard of for long.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       done       hash  job id -> kept outcome
--       expiry     zset  job id -> when its outcome is forgotten, unix ms
--       producers  hash  nonce -> `call ms`, its last call
-- ARGV  now_ms     ms    '' for the Redis clock
--       limit      int   at most so many outcomes
--       silent_ms  ms    a producer is forgotten after so long
--       cursor     int   where to go on among the producers
-- reply { outcomes forgotten, cursor }
-- @include clock
local active, done, expiry, producers = unpack(KEYS, 1, 4)
local now_ms, limit, silent_ms, cursor = unpack(ARGV, 1, 4)

redis.call('ZREM', active, '')
local now = clock(now_ms)
local over = redis.call('ZRANGEBYSCORE', expiry, '-inf', whole(now), 'LIMIT', 0, limit)
if #over > 0 then
  redis.call('HDEL', done, unpack(over))
  redis.call('ZREM', expiry, unpack(over))
end
local page = redis.call('HSCAN', producers, cursor, 'COUNT', 1000)
for i = 1, #page[2], 2 do
  local at = string.match(page[2][i + 1], ' (%d+)$')
  if not at or now - at > tonumber(silent_ms) then redis.call('HDEL', producers, page[2][i]) end
end
return { #over, page[1] }
