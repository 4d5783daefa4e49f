-- purge: dead -> -, the ids given, or those that died at or before a time.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       dead       zset  job id -> time of death, unix ms
--       jobs       hash  job id -> 8 bytes of Redis time + envelope
--       state      hash  job id -> mutable record
--       crashes    hash  job id -> `count ms`
--       cancels    hash  job id -> `keep_ms outcome`, a request to cancel it
--       waiters    hash  job id -> channels that hear of its end
--       meta       hash  fence, epoch, emptied, paused, closed, cleared, purged, max_jobs, and those of sweeps
--       unique     hash  unique key -> `until_ms first_ms count digest expires_ms id`, the job that holds it
--       unique_of  hash  job id -> letter and unique key that it holds
-- ARGV  now_ms     ms    '' for the Redis clock
--       age_ms     ms    purge what has been dead for so long; '' for the ids
--       limit      int   at most so many
--       ids...     text
-- reply how many were purged
-- @include clock kinds key_entries unique_keys finish
local k = {}
k.active, k.dead, k.jobs, k.state, k.crashes, k.cancels, k.waiters, k.meta = unpack(KEYS, 1, 8)
k.unique, k.unique_of = unpack(KEYS, 9, 10)
local now_ms, age_ms, limit, ids = ARGV[1], ARGV[2], ARGV[3], 4

local now = clock(now_ms)
local before = age_ms ~= '' and whole(now - integer(age_ms))
limit = bounded(limit)
local found, gone = { unpack(ARGV, ids) }, {}
check('ZCARD', k.dead)
check('HLEN', k.jobs, k.state, k.crashes, k.cancels, k.waiters, k.meta, k.unique, k.unique_of)
redis.call('ZREM', k.active, '')
if before then found = redis.call('ZRANGEBYSCORE', k.dead, '-inf', before, 'LIMIT', 0, limit) end
for _, id in ipairs(found) do
  if redis.call('ZREM', k.dead, id) == 1 then gone[#gone + 1] = id end
end
if #gone > 0 then redis.call('HSET', k.meta, 'purged', whole(now)) end
finish(k, gone, 'purged')
return #gone
