-- prune: completed, cancelled -> -, outcomes whose time is over; and producers not heard of for long.
-- Windows of unique keys end with their times.
-- An outcome leaves a trace, for as long again as it was kept: what expired is not what never was.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       done       hash  job id -> `keep_ms outcome`, then the trace of it
--       expiry     zset  job id -> when its outcome is forgotten, unix ms
--       producers  hash  nonce -> `call ms`, its last call
--       answers    hash  nonce -> `call answers` of its last call that has some, as msgpack
--       unique     hash  unique key -> `until_ms first_ms count digest expires_ms id`, the job that holds it
--       unique_of  hash  job id -> letter and unique key that it holds
--       unique_until zset unique key -> end of its window, unix ms
-- ARGV  now_ms     ms    '' for the Redis clock
--       limit      int   at most so many outcomes, and windows
--       trace_ms   ms    a trace stays for so long at most
--       bytes      int   so much of the beginning of an outcome is its trace
--       silent_ms  ms    a producer is forgotten after so long
--       cursor     int   where to go on among the producers
-- reply { outcomes whose time was over, cursor, 1 if there is more to forget }
-- @include clock kinds key_entries unique_keys
local active, done, expiry, producers, answers, unique, unique_of, unique_until = unpack(KEYS, 1, 8)
local now_ms, limit, trace_ms, bytes, silent_ms, cursor = unpack(ARGV, 1, 6)

local now = clock(now_ms)
limit, trace_ms, bytes = bounded(limit), integer(trace_ms), integer(bytes)
silent_ms = integer(silent_ms)
check('ZCARD', expiry, unique_until)
check('HLEN', done, answers, unique, unique_of)
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
  if not at or now - at > silent_ms then
    silent = silent + redis.call('HDEL', producers, page[2][i])
    redis.call('HDEL', answers, page[2][i])
  end
end
local windows = redis.call('ZRANGEBYSCORE', unique_until, '-inf', whole(now), 'LIMIT', 0, limit)
for _, key in ipairs(windows) do
  local entry = entry_in(redis.call('HGET', unique, key))
  -- a job may hold the key by now that had a window before
  if entry and entry.till > 0 and entry.till <= now then
    redis.call('HDEL', unique, key)
    disown(unique_of, entry.id, key)
  end
  redis.call('ZREM', unique_until, key)
end
local is_more = #over == limit or #windows == limit or read > MAX_BYTES or silent > PAGE / 10
return { count, page[1], is_more and 1 or 0 }
