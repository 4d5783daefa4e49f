-- find: where one job is. Reads only.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       running    hash  job id -> token
--       jobs       hash  job id -> 8 bytes of Redis time + envelope
--       state      hash  job id -> mutable record
--       crashes    hash  job id -> `count ms`
--       scheduled  zset  job id -> due time, unix ms
--       dead       zset  job id -> time of death, unix ms
--       done       hash  job id -> kept outcome
-- ARGV  id         text  the job
-- reply { where ('done', 'dead', 'active', 'scheduled', 'ready', ''), outcome or payload, record,
--       crashes, when (time of death, deadline or due time, unix ms), token }
local active, running, jobs, state, crashes, scheduled, dead, done = unpack(KEYS, 1, 8)
local id = ARGV[1]

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
local payload = redis.call('HGET', jobs, id)
if not at then where = payload and 'ready' or '' end
return { where, payload, redis.call('HGET', state, id), redis.call('HGET', crashes, id), at, token }
