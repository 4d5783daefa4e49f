-- clear: ready, scheduled -> cancelled, at most `limit` a call.
-- It frees memory: an outcome is left of those that somebody awaits or has cancelled, and of all
-- others together when that was.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       ready      list  job ids, oldest first
--       quarantine list  ids of ready jobs that lost two leases, oldest first
--       scheduled  zset  job id -> due time, unix ms
--       jobs       hash  job id -> 8 bytes of Redis time + envelope
--       state      hash  job id -> mutable record
--       crashes    hash  job id -> `count ms`
--       cancels    hash  job id -> `keep_ms outcome`, a request to cancel it
--       waiters    hash  job id -> channels that hear of its end
--       done       hash  job id -> `keep_ms outcome`, then the trace of it
--       expiry     zset  job id -> when its outcome is forgotten, unix ms
--       meta       hash  fence, epoch, emptied, paused, closed, cleared, purged, max_jobs, and those of sweeps
--       unique     hash  unique key -> `until_ms first_ms count digest expires_ms id`, the job that holds it
--       unique_of  hash  job id -> letter and unique key that it holds
-- ARGV  now_ms     ms    '' for the Redis clock
--       limit      int   at most so many
--       outcome    bytes what a handle finds
--       keep_ms    ms    for so long
-- reply how many were cleared; 0 when nothing is left
-- @include clock kinds key_entries unique_keys finish keep
local k = {}
k.active, k.ready, k.quarantine, k.scheduled, k.jobs, k.state, k.crashes = unpack(KEYS, 1, 7)
k.cancels, k.waiters, k.done, k.expiry, k.meta, k.unique, k.unique_of = unpack(KEYS, 8, 14)
local now_ms, limit, outcome, keep_ms = unpack(ARGV, 1, 4)

local now = clock(now_ms)
keep_ms = integer(keep_ms)
local kept = whole(keep_ms) .. ' ' .. outcome
limit = bounded(limit)
check('LLEN', k.ready, k.quarantine)
check('ZCARD', k.scheduled, k.expiry)
check('HLEN', k.jobs, k.state, k.crashes, k.cancels, k.waiters, k.done, k.meta)
check('HLEN', k.unique, k.unique_of)
redis.call('ZREM', k.active, '')
local ids = redis.call('LPOP', k.ready, limit) or redis.call('LPOP', k.quarantine, limit) or {}
if #ids == 0 then
  ids = redis.call('ZRANGE', k.scheduled, 0, limit - 1)
  if #ids > 0 then redis.call('ZREM', k.scheduled, unpack(ids)) end
end
local channels, cancel_requests = awaited(k.waiters, ids), cancel_requests_of(k.cancels, ids)
for i, id in ipairs(ids) do
  if channels[i] or cancel_requests[i] then
    keep(k, id, kept, now + keep_ms)
  end
end
if #ids > 0 then redis.call('HSET', k.meta, 'cleared', whole(now)) end
finish(k, ids, 'cancelled')
return #ids
