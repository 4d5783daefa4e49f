-- depth: how many jobs a queue holds, the first of each list, pause and closing. Reads only.
-- KEYS  ready      list  job ids, oldest first
--       quarantine list  ids of ready jobs that lost two leases, oldest first
--       scheduled  zset  job id -> due time, unix ms
--       active     zset  token -> lease deadline, unix ms
--       dead       zset  job id -> time of death, unix ms
--       jobs       hash  job id -> 8 bytes of Redis time + envelope
--       meta       hash  fence, epoch, emptied, paused, closed, cleared, purged, max_jobs, and those of sweeps
-- ARGV  now_ms     ms    '' for the Redis clock
-- reply { now_ms, ready, quarantined, scheduled, active, dead, first 8 bytes of the next ready job
--       or false, of the next quarantined one, the pause (`until_ms since_ms reason`) or false, since
--       when it is closed (unix ms) or false, how many jobs may wait or false }
-- @include clock pausing
local ready, quarantine, scheduled, active, dead, jobs, meta = unpack(KEYS, 1, 7)
local now_ms = ARGV[1]

local function stamp(list)
  local first = redis.call('LINDEX', list, 0)
  return first and string.sub(redis.call('HGET', jobs, first) or '', 1, 8)
end
local now, held = clock(now_ms), redis.call('HMGET', meta, 'paused', 'closed', 'max_jobs')
return {
  whole(now), redis.call('LLEN', ready), redis.call('LLEN', quarantine),
  redis.call('ZCARD', scheduled), redis.call('ZCARD', active), redis.call('ZCARD', dead),
  stamp(ready), stamp(quarantine), pause_end(held[1], now) and held[1],
  natural(held[2]) and held[2], natural(held[3]) and held[3],
}
