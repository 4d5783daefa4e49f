-- pause: nothing of the queue is claimed, for some time or until it is resumed; what runs goes on.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       meta       hash  fence, epoch, emptied, paused, closed, cleared, purged, max_jobs, and those of sweeps
-- ARGV  now_ms     ms    '' for the Redis clock
--       for_ms     ms    at least 1; '' for until it is resumed
--       reason     text  what operators are shown
-- reply the pause: `until_ms since_ms reason`, until 0 for until it is resumed
-- @include clock
local active, meta = unpack(KEYS, 1, 2)
local now_ms, for_ms, reason = ARGV[1], ARGV[2], ARGV[3]

local now = clock(now_ms)
local till = for_ms == '' and 0 or now + integer(for_ms)
local pause = whole(till) .. ' ' .. whole(now) .. ' ' .. reason
redis.call('ZREM', active, '')
redis.call('HSET', meta, 'paused', pause)
return pause
