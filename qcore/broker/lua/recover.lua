-- recover: active -> active, what a claim took whose reply was lost, with a new deadline.
-- The old one may have passed, and whoever finds the jobs is about to run them.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       jobs       hash  job id -> 8 bytes of Redis time + envelope
--       state      hash  job id -> mutable record
--       crashes    hash  job id -> `count ms`
-- ARGV  now_ms     ms    '' for the Redis clock
--       lease_ms   ms    from now
--       prefix     text  `owner:seq:` of the lost claim
--       cursor     int   0 at first, then the cursor of the last reply
-- reply { now_ms, cursor ('0' at the end), ids, payloads, states, crashes }
-- @include clock tokens
local active, jobs, state, crashes = unpack(KEYS, 1, 4)
local now_ms, lease_ms, prefix, cursor = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

redis.call('ZREM', active, '')
local now = clock(now_ms)
local page = redis.call('ZSCAN', active, cursor, 'MATCH', prefix .. '*', 'COUNT', 1000)
local ids = {}
for i = 1, #page[2], 2 do
  ids[#ids + 1] = id_of(page[2][i])
  redis.call('ZADD', active, 'XX', whole(now + lease_ms), page[2][i])
end
local reply = { whole(now), page[1], ids, {}, {}, {} }
if #ids > 0 then
  for i, key in ipairs({ jobs, state, crashes }) do
    reply[3 + i] = redis.call('HMGET', key, unpack(ids))
  end
end
return reply
