-- promote: scheduled -> ready, what is due.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       scheduled  zset  job id -> due time, unix ms
--       ready      list  job ids, oldest first
--       suspects   list  ids of ready jobs that lost two leases, oldest first
--       crashes    hash  job id -> `count ms`
--       wake       zset  the marker "come and claim"
-- ARGV  now_ms     ms    '' for the Redis clock
--       limit      int   at most so many
-- reply { how many were promoted, suspects that wait }
-- @include clock lines
local k = {}
k.active, k.scheduled, k.ready, k.suspects, k.crashes, k.wake = unpack(KEYS, 1, 6)
local now_ms, limit = ARGV[1], ARGV[2]

local now = clock(now_ms)
limit = bounded(limit)
redis.call('ZREM', k.active, '')
local promoted = promote_due(k, now, limit)
if promoted > 0 then redis.call('ZADD', k.wake, 0, '1') end
return { promoted, redis.call('LLEN', k.suspects) }
