-- clear: ready, scheduled -> cancelled, at most `limit` a call.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       ready      list  job ids, oldest first
--       scheduled  zset  job id -> due time, unix ms
--       jobs       hash  job id -> 8 bytes of Redis time + envelope
--       state      hash  job id -> mutable record
--       crashes    hash  job id -> `count ms`
--       done       hash  job id -> kept outcome
--       expiry     zset  job id -> when its outcome is forgotten, unix ms
-- ARGV  now_ms     ms    '' for the Redis clock
--       limit      int   at most so many
--       outcome    bytes what a handle finds
--       keep_ms    ms    for so long
-- reply how many were cleared; 0 when nothing is left
-- @include clock forget
local active, ready, scheduled, jobs, state, crashes, done, expiry = unpack(KEYS, 1, 8)
local now_ms, limit, outcome, keep_ms = unpack(ARGV, 1, 4)

redis.call('ZREM', active, '')
local gone = clock(now_ms) + keep_ms
local ids = redis.call('LPOP', ready, limit) or {}
if #ids == 0 then
  ids = redis.call('ZRANGE', scheduled, 0, limit - 1)
  if #ids > 0 then redis.call('ZREM', scheduled, unpack(ids)) end
end
forget(ids, jobs, state, crashes)
for _, id in ipairs(ids) do
  redis.call('HSET', done, id, outcome)
  redis.call('ZADD', expiry, whole(gone), id)
end
return #ids
