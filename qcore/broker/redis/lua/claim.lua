-- claim: ready -> active, oldest first, from one or several queues in strict order.
-- Nothing from those that are paused: when the first pause ends is a time to claim again.
-- KEYS  (repeated for each queue)
--       ready      list  job ids, oldest first
--       quarantine list  ids of ready jobs that lost two leases, oldest first
--       scheduled  zset  job id -> due time, unix ms
--       active     zset  token -> lease deadline, unix ms
--       running    hash  job id -> token
--       jobs       hash  job id -> 8 bytes of Redis time + envelope
--       state      hash  job id -> mutable record
--       crashes    hash  job id -> `count ms`
--       cancels    hash  job id -> `keep_ms outcome`, a request to cancel it
--       meta       hash  fence, epoch, emptied, paused, closed, cleared, purged, max_jobs, and those of sweeps
--       wakeup     zset  one member, "come and claim", which an idle worker pops
--       unique     hash  unique key -> `until_ms first_ms count digest expires_ms id`, the job that holds it
--       unique_of  hash  job id -> letter and unique key that it holds
-- ARGV  now_ms     ms    '' for the Redis clock
--       limit      int   at most so many jobs in all
--       lease_ms   ms    until the lease ends
--       prefix     text  `owner:seq:`, in front of each id it makes the token
--       max_bytes  int   payload in one reply; one job always fits
--       promote    int   due jobs promoted in all; and one of each queue at least
--       quarantine text  '0': claims none; '1' and '2': nothing else, with '1' also one to be alone
--       limits...  int   at most so many jobs of each queue
-- reply { now_ms, when to claim again (unix ms, '' for never), quarantined jobs that wait, then per
--       queue with jobs { number of it from 1, fence, ids, payloads, states, crashes, cancels },
--       per queue that cannot be read { number, why } }
-- @include clock kinds losses ready_lists pausing key_entries unique_keys lease leased payloads claiming
local per_queue = 13
local now_ms, limit, lease_ms, prefix, max_bytes, promote, quarantine, limits = ARGV[1], ARGV[2],
  ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], 8

local now, queues = clock(now_ms), {}
local reply, again = { whole(now), '', 0 }, math.huge
if not string.find(prefix, '^[^:]*:[^:]*:$') then error('not a prefix: ' .. prefix) end
for q = 1, #KEYS / per_queue do
  local k, at = { number = q }, (q - 1) * per_queue
  k.ready, k.quarantine, k.scheduled, k.active, k.running = unpack(KEYS, at + 1, at + 5)
  k.jobs, k.state, k.crashes, k.cancels, k.meta, k.wakeup = unpack(KEYS, at + 6, at + 11)
  k.unique, k.unique_of = unpack(KEYS, at + 12, at + 13)
  k.list = quarantine == '0' and k.ready or k.quarantine
  k.most = bounded(ARGV[limits + q - 1])
  local is_sound, found = pcall(look, k, now)
  if not is_sound then reply[#reply + 1] = { q, type(found) == 'table' and found.err or found } end
  if is_sound and found then queues[#queues + 1] = k end
end
if #queues == 0 then return reply end
local c = {
  now = now, left = bounded(limit), room = integer(max_bytes), promote = bounded(promote), taken = 0,
  is_plain = quarantine == '0', is_idle = quarantine == '1',
}
local deadline = whole(now + integer(lease_ms))

redis.call('ZREM', queues[1].active, '')
for _, k in ipairs(queues) do
  if c.left <= 0 or c.room <= 0 then break end
  local ids = pick(c, k)
  if #ids > 0 then
    local payloads = admit(c, k, ids)
    lease(k.active, k.running, ids, prefix, deadline)
    if k.is_keyed then free_keys(k, ids, 's', true) end
    k.taken, c.left, c.taken = #ids, c.left - #ids, c.taken + #ids
    reply[#reply + 1] = { k.number, rise(k.meta, k.fence, now), ids, payloads, columns(k, ids) }
  end
end
for _, k in ipairs(queues) do
  if not k.pause and not k.is_plain then reply[3] = reply[3] + redis.call('LLEN', k.quarantine) end
  again = math.min(again, look_ahead(c, k))
end
if again < math.huge then reply[2] = whole(again) end
return reply
