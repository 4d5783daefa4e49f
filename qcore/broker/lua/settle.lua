-- settle: active -> completed (ack), scheduled (retry), dead (bury) or head of ready (release).
-- KEYS  active     zset  token -> lease deadline, unix ms
--       running    hash  job id -> token
--       jobs       hash  job id -> 8 bytes of Redis time + envelope
--       state      hash  job id -> mutable record
--       crashes    hash  job id -> `count ms`
--       ready      list  job ids, oldest first
--       scheduled  zset  job id -> due time, unix ms
--       dead       zset  job id -> time of death, unix ms
--       done       hash  job id -> kept outcome
--       expiry     zset  job id -> when its outcome is forgotten, unix ms
--       wake       zset  the marker "come and claim"
--       waiters    hash  job id -> channel to publish its end to
-- ARGV  now_ms     ms    '' for the Redis clock
--       acks       int   how many of the items are acks without an outcome
--       keeps      int   acks with an outcome to keep
--       retries    int
--       buries     int
--       releases   int
--       items...   the tokens in this order, then per keep: outcome, keep_ms; per retry: delay_ms,
--                  record; per bury: record
-- reply the tokens that were lost: nothing was written for them
-- @include clock tokens forget tell
local active, running, jobs, state, crashes, ready, scheduled, dead = unpack(KEYS, 1, 8)
local done, expiry, wake, waiters = unpack(KEYS, 9, 12)
local now_ms, acks, keeps, retries, buries, releases, items = ARGV[1], ARGV[2], ARGV[3],
  ARGV[4], ARGV[5], ARGV[6], 7

redis.call('ZREM', active, '')
local now = clock(now_ms)
local count = acks + keeps + retries + buries + releases
local held, lost = split(active, { unpack(ARGV, items, items + count - 1) })
if #held == 0 then return lost end
redis.call('ZREM', active, unpack(held))

local is_held, ids = {}, {}
for i, token in ipairs(held) do
  is_held[token] = true
  ids[i] = id_of(token)
end
redis.call('HDEL', running, unpack(ids))

local at, extra = items, items + count
-- each: calls `act` with the id and the arguments of the next `n` items, the held ones only.
local function each(n, width, act)
  for _ = 1, tonumber(n) do
    if is_held[ARGV[at]] then act(id_of(ARGV[at]), ARGV[extra], ARGV[extra + 1]) end
    at, extra = at + 1, extra + width
  end
end

local over, buried, back = {}, {}, {}
each(acks, 0, function(id) over[#over + 1] = id end)
each(keeps, 2, function(id, outcome, keep_ms)
  over[#over + 1] = id
  redis.call('HSET', done, id, outcome)
  redis.call('ZADD', expiry, whole(now + keep_ms), id)
end)
forget(over, jobs, state, crashes)
-- No marker for a retry: the worker that settles it plans by its own claim, and an idle one looks
-- once per block interval.
each(retries, 2, function(id, delay_ms, record)
  redis.call('HSET', state, id, record)
  redis.call('ZADD', scheduled, whole(now + delay_ms), id)
end)
each(buries, 1, function(id, record)
  redis.call('HSET', state, id, record)
  redis.call('ZADD', dead, whole(now), id)
  buried[#buried + 1] = id
end)
each(releases, 0, function(id) back[#back + 1] = id end)
for i = #back, 1, -1 do redis.call('LPUSH', ready, back[i]) end
if #back > 0 then redis.call('ZADD', wake, 0, '1') end
tell(waiters, over, 'completed')
tell(waiters, buried, 'dead')
return lost
