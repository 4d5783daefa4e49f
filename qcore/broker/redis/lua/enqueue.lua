-- enqueue: - -> ready or scheduled, in the order given.
-- KEYS  jobs       hash  job id -> 8 bytes of Redis time + envelope
--       ready      list  job ids, oldest first
--       scheduled  zset  job id -> due time, unix ms
--       producers  hash  nonce -> `call ms`, its last call
--       wakeup     zset  one member, "come and claim", which an idle worker pops
--       meta       hash  fence, epoch, emptied, paused, closed, cleared, purged, max_jobs, and those of sweeps
-- ARGV  now_ms     ms    '' for the Redis clock
--       nonce      text  names the producing process
--       call       int   grows with each call of this producer
--       items...   id, when ('' now, '+ms' from now, '@ms' at), envelope
-- reply the ids that were there already, { id } for one that names another job: it was not enqueued;
--       the error QCLOSED when the queue is closed
-- @include clock kinds storing
local jobs, ready, scheduled, producers, wakeup, meta = unpack(KEYS, 1, 6)
local now_ms, nonce, call, items = ARGV[1], ARGV[2], ARGV[3], 4

-- due_of: when a job is due, as digits; false for now.
local function due_of(when, now)
  local sign = string.sub(when, 1, 1)
  local at = integer(string.sub(when, 2)) + (sign == '+' and now or 0)
  return at > now and whole(at)
end

local now, due = clock(now_ms), {}
call = integer(call)
if #ARGV % 3 ~= 0 or #ARGV > 6000 then error('not three words for each of 2,000 jobs') end
for i = items, #ARGV, 3 do
  if ARGV[i + 1] ~= '' then due[i] = due_of(ARGV[i + 1], now) or nil end
end
check('LLEN', ready)
check('ZCARD', wakeup)
if next(due) then check('ZCARD', scheduled) end
local seen = string.match(redis.call('HGET', producers, nonce) or '', '^(%d+) ')
if seen and (natural(seen) or 0) >= call then
  -- The repeat of a call whose reply was lost. It writes, for a WAIT behind it speaks of what its
  -- own connection wrote; at first a removal of nothing, which a full Redis does not refuse.
  redis.call('ZREM', scheduled, '')
  redis.call('HSET', producers, nonce, seen .. ' ' .. whole(now))
  return {}
end
local closed, epoch, fence = unpack(redis.call('HMGET', meta, 'closed', 'epoch', 'fence'))
if natural(closed) then return redis.error_reply('QCLOSED ' .. closed .. ' ' .. jobs) end

local before, added, known, earliest = store(jobs, items, struct.pack('>I8', now)), {}, {}, false
for i = items, #ARGV, 3 do
  local id = ARGV[i]
  if before[i] then
    known[#known + 1] = string.sub(before[i], 9) == ARGV[i + 2] and id or { id }
  elseif due[i] then
    redis.call('ZADD', scheduled, due[i], id)
    earliest = earliest or redis.call('ZRANK', scheduled, id) == 0
  else
    added[#added + 1] = id
  end
end
redis.call('HSET', producers, nonce, whole(call) .. ' ' .. whole(now))
-- with a fence and no epoch it was filled by an older version: nobody knows since when, so since ever
if not natural(epoch) then
  redis.call('HSET', meta, 'epoch', natural(fence) and '0' or whole(now))
end
if #added > 0 then redis.call('RPUSH', ready, unpack(added)) end
if #added > 0 or earliest then redis.call('ZADD', wakeup, 0, '1') end
return known
