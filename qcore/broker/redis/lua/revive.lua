-- revive: dead -> tail of ready, with a fresh count of crashes.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       dead       zset  job id -> time of death, unix ms
--       jobs       hash  job id -> 8 bytes of Redis time + envelope
--       state      hash  job id -> mutable record
--       crashes    hash  job id -> `count ms`
--       ready      list  job ids, oldest first
--       wakeup     zset  one member, "come and claim", which an idle worker pops
-- ARGV  items...   id, its new record
-- reply the ids that were revived: those dead, with a payload
-- @include kinds
local active, dead, jobs, state, crashes, ready, wakeup = unpack(KEYS, 1, 7)
local items = 1

if #ARGV % 2 == 1 then error('an id without a record') end
check('LLEN', ready)
check('ZCARD', dead, wakeup)
check('HLEN', jobs, state, crashes)
redis.call('ZREM', active, '')
local revived = {}
for i = items, #ARGV, 2 do
  local id = ARGV[i]
  if redis.call('HEXISTS', jobs, id) == 1 and redis.call('ZREM', dead, id) == 1 then
    redis.call('HDEL', crashes, id)
    redis.call('HSET', state, id, ARGV[i + 1])
    redis.call('RPUSH', ready, id)
    revived[#revived + 1] = id
  end
end
if #revived > 0 then redis.call('ZADD', wakeup, 0, '1') end
return revived
