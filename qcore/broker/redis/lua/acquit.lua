-- acquit: none: quarantined jobs that lost three leases, one of them to a known culprit, lost two.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       crashes    hash  job id -> `count ms`
-- ARGV  now_ms     ms    '' for the Redis clock
--       ids...     text  jobs that ran beside it; each loses the third loss, and a repeat nothing
-- reply those that it concerned
-- @include clock kinds losses
local active, crashes = KEYS[1], KEYS[2]
local now_ms, ids = ARGV[1], 2

local now = clock(now_ms)
check('HLEN', crashes)
redis.call('ZREM', active, '')
local acquitted = {}
for i = ids, #ARGV do
  local text = redis.call('HGET', crashes, ARGV[i])
  if count_of(text, now) == QUARANTINED + 1 then
    redis.call('HSET', crashes, ARGV[i], QUARANTINED .. string.match(text, ' %d+$'))
    acquitted[#acquitted + 1] = ARGV[i]
  end
end
return acquitted
