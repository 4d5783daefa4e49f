-- promote: scheduled -> ready, what is due.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       scheduled  zset  job id -> due time, unix ms
--       ready      list  job ids, oldest first
--       quarantine list  ids of ready jobs that lost two leases, oldest first
--       crashes    hash  job id -> `count ms`
--       meta       hash  fence, epoch, emptied, paused, closed, cleared, purged, max_jobs, and those of sweeps
--       wakeup     zset  one member, "come and claim", which an idle worker pops
-- ARGV  now_ms     ms    '' for the Redis clock
--       limit      int   at most so many
-- reply { how many were promoted, quarantined jobs that wait; none while the queue is paused }
-- @include clock kinds losses ready_lists pausing
local k = {}
k.active, k.scheduled, k.ready, k.quarantine, k.crashes, k.meta, k.wakeup = unpack(KEYS, 1, 7)
local now_ms, limit = ARGV[1], ARGV[2]

local now = clock(now_ms)
limit = bounded(limit)
check('LLEN', k.ready, k.quarantine)
check('ZCARD', k.scheduled, k.wakeup)
check('HLEN', k.crashes, k.meta)
redis.call('ZREM', k.active, '')
local promoted = promote_due(k, now, limit)
if promoted > 0 then redis.call('ZADD', k.wakeup, 0, '1') end
local paused = pause_end(redis.call('HGET', k.meta, 'paused'), now)
return { promoted, paused and 0 or redis.call('LLEN', k.quarantine) }
