-- reclaim_owner: active of one owner -> ready, scheduled or dead, whatever its deadline.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       running    hash  job id -> token
--       ready      list  job ids, oldest first
--       quarantine list  ids of ready jobs that lost two leases, oldest first
--       scheduled  zset  job id -> due time, unix ms
--       dead       zset  job id -> time of death, unix ms
--       jobs       hash  job id -> 8 bytes of Redis time + envelope
--       state      hash  job id -> mutable record
--       crashes    hash  job id -> `count ms`
--       cancels    hash  job id -> `keep_ms outcome`, a request to cancel it
--       waiters    hash  job id -> channels that hear of its end
--       done       hash  job id -> `keep_ms outcome`, then the trace of it
--       expiry     zset  job id -> when its outcome is forgotten, unix ms
--       wakeup     zset  one member, "come and claim", which an idle worker pops
--       unique     hash  unique key -> `until_ms first_ms count digest expires_ms id`, the job that holds it
--       unique_of  hash  job id -> letter and unique key that it holds
-- ARGV  now_ms     ms    '' for the Redis clock
--       owner      text  the process that is gone
--       charge     text  '1': the loss counts as a crash; '0': the process was ended for no fault of its jobs
--       crash_limit int  the loss that makes a job dead
--       cursor     int   0 at first, then the cursor of the last reply
--       tokens...  text  the culprits: with some, only these losses are charged
-- reply { cursor ('0' at the end), token, where its job went, token, ... }
-- @include clock kinds tokens losses ready_lists key_entries unique_keys finish keep give_back
local k = {}
k.active, k.running, k.ready, k.quarantine, k.scheduled, k.dead, k.jobs = unpack(KEYS, 1, 7)
k.state, k.crashes, k.cancels, k.waiters, k.done, k.expiry, k.wakeup = unpack(KEYS, 8, 14)
k.unique, k.unique_of = unpack(KEYS, 15, 16)
local now_ms, owner, charge, crash_limit, cursor, tokens = ARGV[1], ARGV[2], ARGV[3], ARGV[4],
  ARGV[5], 6

local now, is_culprit = clock(now_ms), {}
crash_limit = integer(crash_limit)
for i = tokens, #ARGV do is_culprit[ARGV[i]] = true end
check('LLEN', k.ready, k.quarantine)
check('ZCARD', k.scheduled, k.dead, k.expiry, k.wakeup)
check('HLEN', k.running, k.jobs, k.state, k.crashes, k.cancels, k.waiters, k.done)
check('HLEN', k.unique, k.unique_of)
redis.call('ZREM', k.active, '')
local page = redis.call('ZSCAN', k.active, cursor, 'MATCH', owner .. ':*', 'COUNT', 1000)
local held, reply = {}, { page[1] }
for i = 1, #page[2], 2 do held[#held + 1] = page[2][i] end
-- ids grow with time: from the youngest to the oldest, so that the oldest is the first at the head
table.sort(held, function(a, b) return (id_of(a) or '') > (id_of(b) or '') end)
for _, token in ipairs(held) do
  local is_charged = charge == '1' and (#ARGV < tokens or is_culprit[token] == true)
  reply[#reply + 1] = token
  reply[#reply + 1] = give_back(k, token, is_charged, now, crash_limit)
end
return reply
