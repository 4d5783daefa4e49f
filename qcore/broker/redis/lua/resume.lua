-- resume: a paused queue is claimed from again, and a closed one takes new jobs again.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       ready      list  job ids, oldest first
--       quarantine list  ids of ready jobs that lost two leases, oldest first
--       scheduled  zset  job id -> due time, unix ms
--       meta       hash  fence, epoch, emptied, paused, closed, cleared, purged, max_jobs, and those of sweeps
--       wakeup     zset  one member, "come and claim", which an idle worker pops
-- ARGV  now_ms     ms    '' for the Redis clock
-- reply { 1 if it was paused, 1 if it was closed }
-- @include clock kinds pausing
local active, ready, quarantine, scheduled, meta, wakeup = unpack(KEYS, 1, 6)
local now_ms = ARGV[1]

local now = clock(now_ms)
check('ZCARD', wakeup)
check('HLEN', meta)
redis.call('ZREM', active, '')
local paused = pause_end(redis.call('HGET', meta, 'paused'), now)
redis.call('HDEL', meta, 'paused')
local opened = redis.call('HDEL', meta, 'closed')
-- A claim that found the queue paused knows nothing of its quarantined jobs and due times either.
local holds = redis.call('EXISTS', ready, quarantine, scheduled) > 0
if paused and holds then redis.call('ZADD', wakeup, 0, '1') end
return { paused and 1 or 0, opened }
