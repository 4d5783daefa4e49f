-- close: the queue takes no new jobs until it is opened or resumed; what it holds is worked off.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       meta       hash  fence, epoch, emptied, paused, closed, cleared, purged, max_jobs, and those of sweeps
-- ARGV  now_ms     ms    '' for the Redis clock
-- reply 1 if this call closed it, 0 if it was closed
-- @include clock
local active, meta = unpack(KEYS, 1, 2)
local now_ms = ARGV[1]

local now = clock(now_ms)
redis.call('ZREM', active, '')
if natural(redis.call('HGET', meta, 'closed')) then return 0 end
redis.call('HSET', meta, 'closed', whole(now))
return 1
