-- claim: ready -> active, oldest first, from one or several queues in strict order.
-- KEYS  (repeated for each queue)
--       ready      list  job ids, oldest first
--       scheduled  zset  job id -> due time, unix ms
--       active     zset  token -> lease deadline, unix ms
--       running    hash  job id -> token
--       jobs       hash  job id -> 8 bytes of Redis time + envelope
--       state      hash  job id -> mutable record
--       crashes    hash  job id -> `count ms`
--       wake       zset  the marker "come and claim"
-- ARGV  now_ms     ms    '' for the Redis clock
--       limit      int   at most so many jobs in all
--       lease_ms   ms    until the lease ends
--       prefix     text  `owner:seq:`, in front of each id it makes the token
--       most_bytes int   payload in one reply; one job always fits
--       promote    int   due jobs promoted per queue
--       suspects   int   at most so many jobs that have lost two leases
--       limits...  int   at most so many jobs of each queue
-- reply { now_ms, when to claim again (unix ms, '' for never), then per queue with jobs
--       { number of the queue from 1, ids, payloads, states or {}, crashes or {} } }
-- @include clock promote_due pick lease
local per_queue = 8
local now_ms, limit, lease_ms, prefix, most_bytes, promote, suspects, limits = ARGV[1], ARGV[2],
  ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], 8
-- Until a held back suspect may be looked at again; the end of any job is a look, too.
local HELD_BACK_MS = 100

-- records: the records of `ids`; {} when no job of the queue has one, which is the rule.
local function records(key, ids)
  if redis.call('EXISTS', key) == 0 then return {} end
  return redis.call('HMGET', key, unpack(ids))
end

local now, queues = clock(now_ms), {}
for q = 0, #KEYS / per_queue - 1 do
  local k, at = {}, q * per_queue
  k.ready, k.scheduled, k.active, k.running = unpack(KEYS, at + 1, at + 4)
  k.jobs, k.state, k.crashes, k.wake = unpack(KEYS, at + 5, at + 8)
  queues[q + 1] = k
end

redis.call('ZREM', queues[1].active, '')
local left, room, reply = tonumber(limit), tonumber(most_bytes), { whole(now), '' }
local held_back, took, allowed = {}, {}, tonumber(suspects)
for q, k in ipairs(queues) do
  if left <= 0 or room <= 0 then break end
  promote_due(k.scheduled, k.ready, now, promote)
  local most, ids = math.min(left, tonumber(ARGV[limits + q - 1])), {}
  ids, held_back[q], allowed = pick(k.ready, k.crashes, most, allowed)
  if #ids > 0 then
    took[q] = true
    local payloads = redis.call('HMGET', k.jobs, unpack(ids))
    room = fitting(k.ready, ids, payloads, room)
    lease(k.active, k.running, ids, prefix, whole(now + lease_ms))
    left = left - #ids
    reply[#reply + 1] = { q, ids, payloads, records(k.state, ids), records(k.crashes, ids) }
  end
end

local again = math.huge
for q, k in ipairs(queues) do
  if redis.call('LLEN', k.ready) > 0 then
    local only_suspects = (held_back[q] or 0) > 0 and not took[q]
    again = math.min(again, only_suspects and now + HELD_BACK_MS or now)
    -- A claim that took nothing must not wake anybody, or two idle workers would spin.
    if #reply > 2 then redis.call('ZADD', k.wake, 0, '1') end
  else
    local first = redis.call('ZRANGE', k.scheduled, 0, 0, 'WITHSCORES')
    if first[2] then again = math.min(again, tonumber(first[2])) end
  end
end
if again < math.huge then reply[2] = whole(again) end
return reply
