-- depth: how many jobs a queue holds, and since when its next one has been waiting. Reads only.
-- KEYS  ready      list  job ids, oldest first
--       suspects   list  ids of ready jobs that lost two leases, oldest first
--       scheduled  zset  job id -> due time, unix ms
--       active     zset  token -> lease deadline, unix ms
--       dead       zset  job id -> time of death, unix ms
--       jobs       hash  job id -> 8 bytes of Redis time + envelope
-- ARGV  now_ms     ms    '' for the Redis clock
-- reply { now_ms, ready, scheduled, active, dead, first 8 bytes of the next ready job or false }
-- @include clock
local ready, suspects, scheduled, active, dead, jobs = unpack(KEYS, 1, 6)
local now_ms = ARGV[1]

local first = redis.call('LINDEX', ready, 0) or redis.call('LINDEX', suspects, 0)
local stamp = first and string.sub(redis.call('HGET', jobs, first) or '', 1, 8)
return {
  whole(clock(now_ms)), redis.call('LLEN', ready) + redis.call('LLEN', suspects),
  redis.call('ZCARD', scheduled), redis.call('ZCARD', active), redis.call('ZCARD', dead), stamp,
}
