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
--       meta       hash  fence, epoch, emptied, paused, closed, cleared, purged; those of sweeps
--       wakeup     zset  the wakeup "come and claim"
-- ARGV  now_ms     ms    '' for the Redis clock
--       limit      int   at most so many jobs in all
--       lease_ms   ms    until the lease ends
--       prefix     text  `owner:seq:`, in front of each id it makes the token
--       max_bytes int   payload in one reply; one job always fits
--       promote    int   due jobs promoted in all; and one of each queue at least
--       quarantine text  '0': claims none; '1' and '2': nothing else, with '1' also one to be alone
--       limits...  int   at most so many jobs of each queue
-- reply { now_ms, when to claim again (unix ms, '' for never), quarantined jobs that wait, then per
--       queue with jobs { number of it from 1, fence, ids, payloads, states, crashes, cancels },
--       per queue that cannot be read { number, why } }
-- @include clock kinds losses ready_lists pausing lease leased
local per_queue = 11
local now_ms, limit, lease_ms, prefix, max_bytes, promote, quarantine, limits = ARGV[1], ARGV[2],
  ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], 8

local now, queues, is_idle = clock(now_ms), {}, quarantine == '1'
local reply, again, taken = { whole(now), '', 0 }, math.huge, 0
if not string.find(prefix, '^[^:]*:[^:]*:$') then error('not a prefix: ' .. prefix) end
for q = 1, #KEYS / per_queue do
  local k, at = { number = q }, (q - 1) * per_queue
  k.ready, k.quarantine, k.scheduled, k.active, k.running = unpack(KEYS, at + 1, at + 5)
  k.jobs, k.state, k.crashes, k.cancels, k.meta, k.wakeup = unpack(KEYS, at + 6, at + 11)
  k.list = quarantine == '0' and k.ready or k.quarantine
  k.most = bounded(ARGV[limits + q - 1])
  local is_sound, found = pcall(look, k, now)
  if not is_sound then reply[#reply + 1] = { q, type(found) == 'table' and found.err or found } end
  if is_sound and found then queues[#queues + 1] = k end
end
if #queues == 0 then return reply end
local left, room, deadline = bounded(limit), integer(max_bytes), whole(now + integer(lease_ms))
promote = bounded(promote)

redis.call('ZREM', queues[1].active, '')
for _, k in ipairs(queues) do
  if left <= 0 or room <= 0 then break end
  local promoted = k.is_plain and 0 or promote_due(k, now, math.max(promote, 1))
  promote = promote - promoted
  -- who claims quarantined jobs wakes somebody for what else became ready
  if promoted > 0 and quarantine ~= '0' and not k.pause then redis.call('ZADD', k.wakeup, 0, '1') end
  local most = likely(k.list, k.jobs, math.min(left, k.most), room)
  if quarantine ~= '0' then most, left = company(k, most, left, is_idle and taken == 0, now) end
  local ids = not k.pause and redis.call('LPOP', k.list, most) or {}
  if #ids > 0 then
    local payloads, free = fitting(k.list, k.jobs, ids, room)
    lease(k.active, k.running, ids, prefix, deadline)
    left, room, taken = left - #ids, free, taken + #ids
    reply[#reply + 1] = { k.number, rise(k.meta, k.fence, now), ids, payloads, columns(k, ids) }
  end
end

for _, k in ipairs(queues) do
  if not k.pause and not k.is_plain then reply[3] = reply[3] + redis.call('LLEN', k.quarantine) end
  if k.pause then
    again = math.min(again, k.pause)
  elseif redis.call('LLEN', k.list) > 0 then
    again = now
    -- Two idle workers would spin if a claim without jobs woke anybody; quarantine has no wakeup.
    if taken > 0 and quarantine == '0' then redis.call('ZADD', k.wakeup, 0, '1') end
  else
    local first = redis.call('ZRANGE', k.scheduled, 0, 0, 'WITHSCORES')
    if first[2] then again = math.min(again, math.max(now, tonumber(first[2]))) end
  end
end
if again < math.huge then reply[2] = whole(again) end
return reply
