-- promote: scheduled -> ready, what is due.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       scheduled  zset  job id -> due time, unix ms
--       ready      list  job ids, oldest first
--       wake       zset  the marker "come and claim"
-- ARGV  now_ms     ms    '' for the Redis clock
--       limit      int   at most so many
-- reply how many were promoted
-- @include clock promote_due
local active, scheduled, ready, wake = unpack(KEYS, 1, 4)
local now_ms, limit = ARGV[1], ARGV[2]

redis.call('ZREM', active, '')
local promoted = promote_due(scheduled, ready, clock(now_ms), limit)
if promoted > 0 then redis.call('ZADD', wake, 0, '1') end
return promoted
