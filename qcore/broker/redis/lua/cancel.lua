-- cancel: scheduled -> cancelled at once; ready, active: a cancel request, which the next step obeys.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       scheduled  zset  job id -> due time, unix ms
--       running    hash  job id -> token
--       jobs       hash  job id -> 8 bytes of Redis time + envelope
--       state      hash  job id -> mutable record
--       crashes    hash  job id -> `count ms`
--       dead       zset  job id -> time of death, unix ms
--       cancels    hash  job id -> `keep_ms outcome`, a request to cancel it
--       waiters    hash  job id -> channels that hear of its end
--       done       hash  job id -> `keep_ms outcome`, then the trace of it
--       expiry     zset  job id -> when its outcome is forgotten, unix ms
--       unique     hash  unique key -> `until_ms first_ms count digest expires_ms id`, the job that holds it
--       unique_of  hash  job id -> letter and unique key that it holds
-- ARGV  now_ms     ms    '' for the Redis clock
--       keep_ms    ms    how long the outcome is kept
--       outcome    bytes what a handle finds
--       ids...     text
-- reply for each id where it was: 'scheduled', 'ready', 'active', 'ended', or '' for no trace
-- @include clock kinds key_entries unique_keys finish keep
local k = {}
k.active, k.scheduled, k.running, k.jobs, k.state, k.crashes, k.dead = unpack(KEYS, 1, 7)
k.cancels, k.waiters, k.done, k.expiry, k.unique, k.unique_of = unpack(KEYS, 8, 13)
local now_ms, keep_ms, outcome, ids = ARGV[1], ARGV[2], ARGV[3], 4

local now = clock(now_ms)
local cancel_request = whole(integer(keep_ms)) .. ' ' .. outcome
check('ZCARD', k.scheduled, k.dead, k.expiry)
check('HLEN', k.running, k.jobs, k.state, k.crashes, k.cancels, k.waiters, k.done)
check('HLEN', k.unique, k.unique_of)
redis.call('ZREM', k.active, '')

local function cancel(id)
  if redis.call('HEXISTS', k.jobs, id) == 0 then
    return redis.call('HEXISTS', k.done, id) == 1 and 'ended' or ''
  end
  if redis.call('ZSCORE', k.dead, id) then return 'ended' end
  if redis.call('ZREM', k.scheduled, id) == 1 then
    call_off(k, id, cancel_request, now)
    return 'scheduled'
  end
  redis.call('HSET', k.cancels, id, cancel_request)
  if redis.call('HEXISTS', k.running, id) == 1 then return 'active' end
  -- it will not run: who waits for it need not wait until it is popped, nor who wants its key
  free_keys(k, { id }, 'ds', true)
  announce(k.waiters, { id }, 'cancelled')
  return 'ready'
end

local reply = {}
for i = ids, #ARGV do reply[#reply + 1] = cancel(ARGV[i]) end
return reply
