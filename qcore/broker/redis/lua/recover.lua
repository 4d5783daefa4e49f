-- recover: active -> active, what a claim took whose reply was lost, with a new deadline.
-- The old one may have passed, and whoever finds the jobs is about to run them.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       jobs       hash  job id -> 8 bytes of Redis time + envelope
--       state      hash  job id -> mutable record
--       crashes    hash  job id -> `count ms`
--       cancels    hash  job id -> `keep_ms outcome`, a request to cancel it
--       meta       hash  fence, epoch, emptied, paused, closed, cleared, purged, max_jobs, and those of sweeps
-- ARGV  now_ms     ms    '' for the Redis clock
--       lease_ms   ms    from now
--       prefix     text  `owner:seq:` of the lost claim, or `owner:`
--       payloads   text  '1'; '0': without, for who will not run the jobs
--       cursor     int   0 at first, then the cursor of the last reply
-- reply { cursor ('0' at the end), now_ms, fence, tokens, payloads, states, crashes, cancel requests }
-- @include clock kinds tokens leased
local k = {}
k.active, k.jobs, k.state, k.crashes, k.cancels, k.meta = unpack(KEYS, 1, 6)
local now_ms, lease_ms, prefix, payloads, cursor = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local now = clock(now_ms)
local deadline = whole(now + integer(lease_ms))
check('HLEN', k.jobs, k.state, k.crashes, k.cancels, k.meta)
redis.call('ZREM', k.active, '')
local page = redis.call('ZSCAN', k.active, cursor, 'MATCH', prefix .. '*', 'COUNT', 1000)
local found, ids = {}, {}
for i = 1, #page[2], 2 do
  local token, id = page[2][i], id_of(page[2][i])
  if id then
    found[#found + 1], ids[#ids + 1] = token, id
    redis.call('ZADD', k.active, 'XX', deadline, token)
  end
end
if #ids == 0 then return { page[1], whole(now), '0', {}, {}, {}, {}, {} } end
local bodies = payloads == '1' and redis.call('HMGET', k.jobs, unpack(ids)) or {}
local fence = rise(k.meta, redis.call('HGET', k.meta, 'fence'), now)
return { page[1], whole(now), fence, found, bodies, columns(k, ids) }
