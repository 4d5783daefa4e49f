-- settle: active -> completed (an ack that keeps an outcome), scheduled (retry), dead (bury), ready.
-- What is released goes to the head of ready. Acks without an outcome are for `ack`.
-- A request to cancel the job turns a retry and a release into its end.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       running    hash  job id -> token
--       jobs       hash  job id -> 8 bytes of Redis time + envelope
--       state      hash  job id -> mutable record
--       crashes    hash  job id -> `count ms`
--       ready      list  job ids, oldest first
--       quarantine list  ids of ready jobs that lost two leases, oldest first
--       scheduled  zset  job id -> due time, unix ms
--       dead       zset  job id -> time of death, unix ms
--       cancels    hash  job id -> `keep_ms outcome`, a request to cancel it
--       waiters    hash  job id -> channels that hear of its end
--       done       hash  job id -> `keep_ms outcome`, then the trace of it
--       expiry     zset  job id -> when its outcome is forgotten, unix ms
--       wakeup     zset  one member, "come and claim", which an idle worker pops
--       unique     hash  unique key -> `until_ms first_ms count digest expires_ms id`, the job that holds it
--       unique_of  hash  job id -> letter and unique key that it holds
-- ARGV  now_ms     ms    '' for the Redis clock
--       keeps      int   how many of the items are acks with an outcome to keep
--       retries    int
--       buries     int
--       releases   int
--       items...   the tokens in this order, then per keep: outcome, keep_ms; per retry: record,
--                  delay_ms; per bury: record
-- reply the tokens that were lost: nothing was written for them
-- @include clock kinds tokens losses ready_lists key_entries unique_keys finish keep settling
local k = {}
k.active, k.running, k.jobs, k.state, k.crashes, k.ready, k.quarantine = unpack(KEYS, 1, 7)
k.scheduled, k.dead, k.cancels, k.waiters, k.done, k.expiry, k.wakeup = unpack(KEYS, 8, 14)
k.unique, k.unique_of = unpack(KEYS, 15, 16)
local now_ms, keeps, retries, buries, releases, items = ARGV[1], ARGV[2], ARGV[3], ARGV[4],
  ARGV[5], 6

local now = clock(now_ms)
local counts = { integer(keeps), integer(retries), integer(buries), integer(releases) }
local tokens, plan = read_items(now, counts, items)
check('HLEN', k.running, k.jobs)
k.is_plain = redis.call('EXISTS', k.state, k.crashes, k.cancels, k.waiters, k.unique_of) == 0
if not k.is_plain then
  check('HLEN', k.state, k.crashes, k.cancels, k.waiters, k.unique, k.unique_of)
end
check('LLEN', k.ready, k.quarantine)
check('ZCARD', k.scheduled, k.dead, k.expiry, k.wakeup)
check('HLEN', k.done)
redis.call('ZREM', k.active, '')
local held, lost = split(k.active, tokens)
if #held == 0 then return lost end
local is_held, ids, over = {}, {}, {}
for i, token in ipairs(held) do
  ids[i] = id_of(token) or error('not a token: ' .. token)
  is_held[token] = ids[i]
end
for i = 1, counts[1] do over[#over + 1] = is_held[tokens[i]] end

keep_outcomes(k, plan.keep, is_held, now)
finish(k, over, 'completed')
bury(k, plan.bury, is_held, now)
go_back(k, plan.back, is_held, now)
-- The leases go last: until then a call that fails half-way leaves each job in somebody's hands.
redis.call('ZREM', k.active, unpack(held))
redis.call('HDEL', k.running, unpack(ids))
return lost
