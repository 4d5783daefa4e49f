-- forget: every key of a queue -> -, if it holds no job and nobody uses it.
-- KEYS  ready      list  job ids, oldest first
--       quarantine list  ids of ready jobs that lost two leases, oldest first
--       scheduled  zset  job id -> due time, unix ms
--       active     zset  token -> lease deadline, unix ms
--       running    hash  job id -> token
--       jobs       hash  job id -> 8 bytes of Redis time + envelope
--       state      hash  job id -> mutable record
--       crashes    hash  job id -> `count ms`
--       cancels    hash  job id -> `keep_ms outcome`, a request to cancel it
--       waiters    hash  job id -> channels that hear of its end
--       dead       zset  job id -> time of death, unix ms
--       done       hash  job id -> `keep_ms outcome`, then the trace of it
--       expiry     zset  job id -> when its outcome is forgotten, unix ms
--       producers  hash  nonce -> `call ms`, its last call
--       answers    hash  nonce -> `call answers` of its last call that has some, as msgpack
--       wakeup     zset  one member, "come and claim", which an idle worker pops
--       meta       hash  fence, epoch, emptied, paused, closed, cleared, purged, max_jobs, and those of sweeps
--       unique     hash  unique key -> `until_ms first_ms count digest expires_ms id`, the job that holds it
--       unique_of  hash  job id -> letter and unique key that it holds
--       unique_until zset unique key -> end of its window, unix ms
-- ARGV  now_ms     ms    '' for the Redis clock
--       away_ms    ms    workers that did not sweep for so long are away
--       act        int   1: forget it, 0: say what it holds
-- reply { 1 if it was forgotten, ready, scheduled, active, dead, payloads, outcomes and traces,
--       producers, age of the last sweep (ms) or false, windows of unique keys that last }
-- @include clock kinds
local ready, quarantine, scheduled, active, running, jobs, state, crashes = unpack(KEYS, 1, 8)
local cancels, waiters, dead, done, expiry, producers, answers, wakeup = unpack(KEYS, 9, 16)
local meta, unique, unique_of, unique_until = unpack(KEYS, 17, 20)
local now_ms, away_ms, act = unpack(ARGV, 1, 3)

local now = clock(now_ms)
away_ms, act = integer(away_ms), integer(act)
check('HLEN', running, state, crashes, cancels, waiters, done, answers, unique, unique_of)
local swept = natural(redis.call('HGET', meta, 'last_sweep'))
local holds = {
  0, redis.call('LLEN', ready) + redis.call('LLEN', quarantine), redis.call('ZCARD', scheduled),
  redis.call('ZCARD', active), redis.call('ZCARD', dead), redis.call('HLEN', jobs),
  redis.call('ZCARD', expiry), redis.call('HLEN', producers), swept and math.max(0, now - swept),
  redis.call('ZCOUNT', unique_until, whole(now), '+inf'),
}
redis.call('ZREM', active, '')
local is_held = holds[8] > 0 or holds[10] > 0 or swept and now - swept < away_ms
for i = 2, 6 do is_held = is_held or holds[i] > 0 end
if act ~= 1 or is_held then return holds end
redis.call('UNLINK', ready, quarantine, scheduled, active, running, jobs, state, crashes, cancels,
  waiters, dead, done, expiry, producers, answers, wakeup, meta, unique, unique_of, unique_until)
holds[1] = 1
return holds
