-- enqueue: - -> ready or scheduled, in the order given.
-- KEYS  jobs       hash  job id -> 8 bytes of Redis time + envelope
--       ready      list  job ids, oldest first
--       scheduled  zset  job id -> due time, unix ms
--       producers  hash  nonce -> `call ms`, its last call
--       wake       zset  the marker "come and claim"
-- ARGV  now_ms     ms    '' for the Redis clock
--       nonce      text  names the producing process
--       call       int   grows with each call of this producer
--       items...   id, when ('' now, '+ms' from now, '@ms' at), envelope
-- reply the ids that were there already
-- @include clock
local jobs, ready, scheduled, producers, wake = unpack(KEYS, 1, 5)
local now_ms, nonce, call, items = ARGV[1], ARGV[2], ARGV[3], 4

local now = clock(now_ms)
local seen = string.match(redis.call('HGET', producers, nonce) or '', '^(%d+)')
if seen and tonumber(seen) >= tonumber(call) then
  -- The repeat of a call whose reply was lost. It writes, for a WAIT behind it speaks of what its
  -- own connection wrote; at first a removal of nothing, which a full Redis does not refuse.
  redis.call('ZREM', scheduled, '')
  redis.call('HSET', producers, nonce, seen .. ' ' .. whole(now))
  return {}
end
-- The first write may allocate, so a full Redis refuses the whole call here.
redis.call('HSET', producers, nonce, call .. ' ' .. whole(now))

local stamp, added, known, earliest = struct.pack('>I8', now), {}, {}, false
for i = items, #ARGV, 3 do
  local id, when = ARGV[i], ARGV[i + 1]
  if redis.call('HSETNX', jobs, id, stamp .. ARGV[i + 2]) == 0 then
    known[#known + 1] = id
  else
    local sign, due = string.sub(when, 1, 1), tonumber(string.sub(when, 2))
    if sign == '+' then due = now + due end
    if sign == '' or due <= now then
      added[#added + 1] = id
    else
      redis.call('ZADD', scheduled, whole(due), id)
      earliest = earliest or redis.call('ZRANK', scheduled, id) == 0
    end
  end
end
if #added > 0 then redis.call('RPUSH', ready, unpack(added)) end
if #added > 0 or earliest then redis.call('ZADD', wake, 0, '1') end
return known
