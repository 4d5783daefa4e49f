-- purge: dead -> -, the ids given, or those that died at or before a time.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       dead       zset  job id -> time of death, unix ms
--       jobs       hash  job id -> 8 bytes of Redis time + envelope
--       state      hash  job id -> mutable record
--       crashes    hash  job id -> `count ms`
-- ARGV  now_ms     ms    '' for the Redis clock
--       age_ms     ms    purge what has been dead for so long; '' for the ids
--       limit      int   at most so many
--       ids...     text
-- reply how many were purged
-- @include clock forget
local active, dead, jobs, state, crashes = unpack(KEYS, 1, 5)
local now_ms, age_ms, limit, ids = ARGV[1], ARGV[2], ARGV[3], 4

redis.call('ZREM', active, '')
local found, gone = { unpack(ARGV, ids) }, {}
if age_ms ~= '' then
  local before = whole(clock(now_ms) - age_ms)
  found = redis.call('ZRANGEBYSCORE', dead, '-inf', before, 'LIMIT', 0, limit)
end
for _, id in ipairs(found) do
  if redis.call('ZREM', dead, id) == 1 then gone[#gone + 1] = id end
end
forget(gone, jobs, state, crashes)
return #gone
