-- prune: completed, cancelled -> -, outcomes whose time is over; and producers not heard of for long.
-- An outcome leaves a trace, for as long again as it was kept: what expired is not what never was.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       done       hash  job id -> `keep_ms outcome`, then the trace of it
--       expiry     zset  job id -> when its outcome is forgotten, unix ms
--       producers  hash  nonce -> `call ms`, its last call
-- ARGV  now_ms     ms    '' for the Redis clock
--       limit      int   at most so many outcomes
--       trace_ms   ms    a trace stays for so long at most
--       bytes      int   so much of the beginning of an outcome is its trace
--       silent_ms  ms    a producer is forgotten after so long
--       cursor     int   where to go on among the producers
-- reply { outcomes whose time was over, cursor, 1 if there is more to forget }
-- @include clock kinds
local active, done, expiry, producers = unpack(KEYS, 1, 4)
local now_ms, limit, trace_ms, bytes, silent_ms, cursor = unpack(ARGV, 1, 6)

local now = clock(now_ms)
limit, trace_ms, bytes = bounded(limit), integer(trace_ms), integer(bytes)
silent_ms = integer(silent_ms)
check('ZCARD', expiry)
check('HLEN', done)
-- So many bytes of outcomes are read, and so many producers looked at. While a tenth of them is
-- silent, the next page is worth a look.
local MAX_BYTES, PAGE = 1024 * 1024, 500
local page = redis.call('HSCAN', producers, cursor, 'COUNT', PAGE)
redis.call('ZREM', active, '')
local over = redis.call('ZRANGEBYSCORE', expiry, '-inf', whole(now), 'LIMIT', 0, limit)
local read, count, silent = 0, 0, 0
for _, id in ipairs(over) do
  if read > MAX_BYTES then break end
  -- a trace has no time in front
  local kept = redis.call('HGET', done, id) or ''
  read, count = read + #kept, count + 1
  local keep_ms, at = string.match(kept, '^(%d+) ()')
  keep_ms = natural(keep_ms)
  if keep_ms then
    redis.call('HSET', done, id, string.sub(kept, at, at + bytes - 1))
    redis.call('ZADD', expiry, whole(now + math.min(trace_ms, keep_ms)), id)
  else
    redis.call('HDEL', done, id)
    redis.call('ZREM', expiry, id)
  end
end
for i = 1, #page[2], 2 do
  local at = natural(string.match(page[2][i + 1], ' (%d+)$'))
  if not at or now - at > silent_ms then silent = silent + redis.call('HDEL', producers, page[2][i]) end
end
local is_more = #over == limit or read > MAX_BYTES or silent > PAGE / 10
return { count, page[1], is_more and 1 or 0 }
