-- prune: completed, cancelled -> -, outcomes whose time is over; and producers not heard of for long.
-- An outcome leaves an empty one behind for a while: it tells what expired from what never was.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       done       hash  job id -> kept outcome
--       expiry     zset  job id -> when its outcome is forgotten, unix ms
--       producers  hash  nonce -> `call ms`, its last call
-- ARGV  now_ms     ms    '' for the Redis clock
--       limit      int   at most so many outcomes
--       trace_ms   ms    the empty outcome stays for so long
--       silent_ms  ms    a producer is forgotten after so long
--       cursor     int   where to go on among the producers
-- reply { outcomes whose time was over, cursor }
-- @include clock
local active, done, expiry, producers = unpack(KEYS, 1, 4)
local now_ms, limit, trace_ms, silent_ms, cursor = unpack(ARGV, 1, 5)

local now = clock(now_ms)
local later = whole(now + integer(trace_ms))
limit, silent_ms = bounded(limit), integer(silent_ms)
local page = redis.call('HSCAN', producers, cursor, 'COUNT', 1000)
redis.call('ZREM', active, '')
local over = redis.call('ZRANGEBYSCORE', expiry, '-inf', whole(now), 'LIMIT', 0, limit)
for _, id in ipairs(over) do
  local outcome = redis.call('HGET', done, id)
  if outcome and outcome ~= '' then
    redis.call('HSET', done, id, '')
    redis.call('ZADD', expiry, later, id)
  else
    redis.call('HDEL', done, id)
    redis.call('ZREM', expiry, id)
  end
end
for i = 1, #page[2], 2 do
  local at = string.match(page[2][i + 1], ' (%d+)$')
  if not at or now - at > silent_ms then redis.call('HDEL', producers, page[2][i]) end
end
return { #over, page[1] }
