-- find: where one job is; a waiter is told when it has ended.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       running    hash  job id -> token
--       jobs       hash  job id -> 8 bytes of Redis time + envelope
--       state      hash  job id -> mutable record
--       crashes    hash  job id -> `count ms`
--       scheduled  zset  job id -> due time, unix ms
--       dead       zset  job id -> time of death, unix ms
--       done       hash  job id -> kept outcome
--       waiters    hash  job id -> channel to publish its end to
-- ARGV  id         text  the job
--       channel    text  where to publish its end, if it has not ended; '' nowhere
-- reply { where ('done', 'dead', 'active', 'scheduled', 'ready', ''), outcome or payload (none for
--       a waiter), record, crashes, when (time of death, deadline or due time, unix ms), token }
local active, running, jobs, state, crashes, scheduled, dead, done, waiters = unpack(KEYS, 1, 9)
local id, channel = ARGV[1], ARGV[2]

redis.call('ZREM', active, '')
local outcome = redis.call('HGET', done, id)
if outcome then return { 'done', outcome, false, false, false, false } end
local where, at = 'dead', redis.call('ZSCORE', dead, id)
local token = redis.call('HGET', running, id)
if not at and token then
  where, at = 'active', redis.call('ZSCORE', active, token)
end
if not at then
  where, at = 'scheduled', redis.call('ZSCORE', scheduled, id)
end
if not at then
  where = redis.call('HEXISTS', jobs, id) == 1 and 'ready' or ''
end
local payload = false
if channel == '' then
  payload = redis.call('HGET', jobs, id)
elseif where ~= 'dead' and where ~= '' then
  redis.call('HSET', waiters, id, channel)
end
return { where, payload, redis.call('HGET', state, id), redis.call('HGET', crashes, id), at, token }
