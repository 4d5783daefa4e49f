-- depth: how many jobs a queue holds, and when the first of each line was enqueued. Reads only.
-- KEYS  ready      list  job ids, oldest first
--       suspects   list  ids of ready jobs that lost two leases, oldest first
--       scheduled  zset  job id -> due time, unix ms
--       active     zset  token -> lease deadline, unix ms
--       dead       zset  job id -> time of death, unix ms
--       jobs       hash  job id -> 8 bytes of Redis time + envelope
-- ARGV  now_ms     ms    '' for the Redis clock
-- reply { now_ms, ready, suspects, scheduled, active, dead, first 8 bytes of the next ready job or
--       false, the same of the next suspect }
-- @include clock
local ready, suspects, scheduled, active, dead, jobs = unpack(KEYS, 1, 6)
local now_ms = ARGV[1]

local function stamp(line)
  local first = redis.call('LINDEX', line, 0)
  return first and string.sub(redis.call('HGET', jobs, first) or '', 1, 8)
end
return {
  whole(clock(now_ms)), redis.call('LLEN', ready), redis.call('LLEN', suspects),
  redis.call('ZCARD', scheduled), redis.call('ZCARD', active), redis.call('ZCARD', dead),
  stamp(ready), stamp(suspects),
}
