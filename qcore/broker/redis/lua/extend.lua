-- extend: active -> active, with a new deadline; also for a lease that expired and was not reclaimed.
-- KEYS  active     zset  token -> lease deadline, unix ms
-- ARGV  now_ms     ms    '' for the Redis clock
--       lease_ms   ms    from now
--       tokens...  text  the leases to renew
-- reply the tokens that were lost
-- @include clock tokens
local active = KEYS[1]
local now_ms, lease_ms, tokens = ARGV[1], ARGV[2], 3

local deadline, members = whole(clock(now_ms) + integer(lease_ms)), {}
tokens = { unpack(ARGV, tokens) }
redis.call('ZREM', active, '')
local held, lost = split(active, tokens)
for i, token in ipairs(held) do
  members[2 * i - 1], members[2 * i] = deadline, token
end
if #members > 0 then redis.call('ZADD', active, 'XX', unpack(members)) end
return lost
