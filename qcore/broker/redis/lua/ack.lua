-- ack: active -> completed, with no outcome to keep: how nearly all jobs end.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       running    hash  job id -> token
--       jobs       hash  job id -> 8 bytes of Redis time + envelope
--       state      hash  job id -> mutable record
--       crashes    hash  job id -> `count ms`
--       cancels    hash  job id -> `keep_ms outcome`, a request to cancel it
--       waiters    hash  job id -> channels that hear of its end
--       unique     hash  unique key -> `until_ms first_ms count digest expires_ms id`, the job that holds it
--       unique_of  hash  job id -> letter and unique key that it holds
-- ARGV  tokens...
-- reply the tokens that were lost: nothing was written for them
-- @include clock kinds tokens key_entries unique_keys finish
local k = {}
k.active, k.running, k.jobs, k.state, k.crashes, k.cancels, k.waiters = unpack(KEYS, 1, 7)
k.unique, k.unique_of = unpack(KEYS, 8, 9)
local tokens = ARGV

check('HLEN', k.running)
k.is_plain = redis.call('EXISTS', k.state, k.crashes, k.cancels, k.waiters, k.unique_of) == 0
if not k.is_plain then
  check('HLEN', k.jobs, k.state, k.crashes, k.cancels, k.waiters, k.unique, k.unique_of)
end
redis.call('ZREM', k.active, '')
local held, lost = split(k.active, tokens)
if #held == 0 then return lost end
local ids = {}
for i, token in ipairs(held) do ids[i] = id_of(token) or error('not a token: ' .. token) end
finish(k, ids, 'completed')
-- The leases go last: until then a call that fails half-way leaves each job in somebody's hands.
redis.call('ZREM', k.active, unpack(held))
redis.call('HDEL', k.running, unpack(ids))
return lost
