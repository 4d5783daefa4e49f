-- reclaim: active with an expired lease -> ready, scheduled or dead; each loss counts as a crash.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       running    hash  job id -> token
--       ready      list  job ids, oldest first
--       quarantine list  ids of ready jobs that lost two leases, oldest first
--       scheduled  zset  job id -> due time, unix ms
--       dead       zset  job id -> time of death, unix ms
--       jobs       hash  job id -> 8 bytes of Redis time + envelope
--       state      hash  job id -> mutable record
--       crashes    hash  job id -> `count ms`
--       cancels    hash  job id -> `keep_ms outcome`, a request to cancel it
--       waiters    hash  job id -> channels that hear of its end
--       done       hash  job id -> `keep_ms outcome`, then the trace of it
--       expiry     zset  job id -> when its outcome is forgotten, unix ms
--       meta       hash  fence, epoch, emptied, paused, closed, cleared, purged, max_jobs, and those of sweeps
--       wakeup     zset  one member, "come and claim", which an idle worker pops
--       unique     hash  unique key -> `until_ms first_ms count digest expires_ms id`, the job that holds it
--       unique_of  hash  job id -> letter and unique key that it holds
-- ARGV  now_ms     ms    '' for the Redis clock
--       lease_ms   ms    the lease of this fleet
--       stale_ms   ms    a last sweep older than this means that Redis or all sweepers were away
--       guard_ms   ms    time that live owners then get to renew
--       crash_limit int  the loss that makes a job dead
--       limit      int   at most so many
--       heard_ms   ms    when this Redis last answered a sweep of the caller, whatever the queue; or 0
-- reply { now_ms, token, where its job went ('ready', 'scheduled', 'dead', 'cancelled';
--       'dropped': it was no lease of a job), token, ... }
-- @include clock kinds tokens losses ready_lists key_entries unique_keys finish keep give_back
local k = {}
k.active, k.running, k.ready, k.quarantine, k.scheduled, k.dead, k.jobs = unpack(KEYS, 1, 7)
k.state, k.crashes, k.cancels, k.waiters, k.done, k.expiry, k.meta, k.wakeup = unpack(KEYS, 8, 15)
k.unique, k.unique_of = unpack(KEYS, 16, 17)
local now_ms, lease_ms, stale_ms, guard_ms, crash_limit, limit, heard_ms = unpack(ARGV, 1, 7)
local LONGEST_MS = 24 * 3600 * 1000

local now = clock(now_ms)
lease_ms, stale_ms, guard_ms = integer(lease_ms), integer(stale_ms), integer(guard_ms)
crash_limit, limit, heard_ms = integer(crash_limit), bounded(limit), integer(heard_ms)
check('LLEN', k.ready, k.quarantine)
check('ZCARD', k.scheduled, k.dead, k.expiry, k.wakeup)
check('HLEN', k.running, k.jobs, k.state, k.crashes, k.cancels, k.waiters, k.done, k.meta)
check('HLEN', k.unique, k.unique_of)
redis.call('ZREM', k.active, '')
local meta = redis.call('HMGET', k.meta, 'last_sweep', 'guard_until')
local last, guard = math.max(natural(meta[1]) or 0, heard_ms), natural(meta[2]) or 0
redis.call('HSET', k.meta, 'last_sweep', whole(now))
if now - last > stale_ms or last > now then
  guard = now + guard_ms
  redis.call('HSET', k.meta, 'guard_until', whole(guard))
end

-- The Redis clock went back: a deadline that far ahead would hold its job for too long. And none can
-- be further ahead than two of the longest lease there is.
local went_back = last > now or redis.call('HEXISTS', k.meta, 'clock_back') == 1
local from = whole(now + 2 * (went_back and lease_ms or LONGEST_MS))
local far = redis.call('ZRANGEBYSCORE', k.active, from, '+inf', 'LIMIT', 0, limit)
for _, token in ipairs(far) do redis.call('ZADD', k.active, whole(now + lease_ms), token) end
-- more of them may be left for the next sweep
if went_back and #far == limit then
  redis.call('HSET', k.meta, 'clock_back', 1)
elseif went_back then
  redis.call('HDEL', k.meta, 'clock_back')
end

local reply = { whole(now) }
-- a guard further ahead than one guard was set before the clock went back
if now < guard and guard <= now + guard_ms then return reply end
local expired = redis.call('ZRANGEBYSCORE', k.active, '-inf', whole(now), 'LIMIT', 0, limit)
-- from the youngest to the oldest, so that the oldest is the first at the head
for i = #expired, 1, -1 do
  reply[#reply + 1] = expired[i]
  reply[#reply + 1] = give_back(k, expired[i], true, now, crash_limit)
end
return reply
