-- admission: - -> ready or scheduled, as `enqueue`, where that depends on what is there already.
-- On the holders of unique keys, on ids that users give, and on how many jobs wait in the queue.
-- KEYS  jobs       hash  job id -> 8 bytes of Redis time + envelope
--       ready      list  job ids, oldest first
--       quarantine list  ids of ready jobs that lost two leases, oldest first
--       scheduled  zset  job id -> due time, unix ms
--       running    hash  job id -> token
--       state      hash  job id -> mutable record
--       crashes    hash  job id -> `count ms`
--       cancels    hash  job id -> `keep_ms outcome`, a request to cancel it
--       dead       zset  job id -> time of death, unix ms
--       done       hash  job id -> `keep_ms outcome`, then the trace of it
--       producers  hash  nonce -> `call ms`, its last call
--       answers    hash  nonce -> `call answers` of its last call that has some, as msgpack
--       wakeup     zset  one member, "come and claim", which an idle worker pops
--       meta       hash  fence, epoch, emptied, paused, closed, cleared, purged, max_jobs, and those of sweeps
--       unique     hash  unique key -> `until_ms first_ms count digest expires_ms id`, the job that holds it
--       unique_of  hash  job id -> letter and unique key that it holds
--       unique_until zset unique key -> end of its window, unix ms
-- ARGV  now_ms     ms    '' for the Redis clock
--       nonce      text  names the producing process
--       call       text  `number most size size...`: the number grows with each call of this producer;
--                        at most so many jobs may wait, 0: any number; parcels of so many jobs, in
--                        order, are each taken as a whole, or not at all
--       items...   id, when (as for `enqueue`, and then the words of `read_item`), envelope
-- reply for each job that was not created { its id, how, id of the one that is there, when the key was
--       first asked for (unix ms), how often, digest of its arguments }; how: 'known', 'taken', 'joined',
--       'replaced', 'throttled'; for the first job of each parcel that did not fit { its id, 'full',
--       jobs that wait }; the error QCLOSED when the queue is closed
-- @include clock kinds key_entries unique_keys asked fate admitting admitted
local k = {}
k.jobs, k.ready, k.quarantine, k.scheduled, k.running, k.state, k.crashes = unpack(KEYS, 1, 7)
k.cancels, k.dead, k.done, k.producers, k.answers, k.wakeup, k.meta = unpack(KEYS, 8, 14)
k.unique, k.unique_of, k.unique_until = unpack(KEYS, 15, 17)
local now_ms, nonce, call, items = ARGV[1], ARGV[2], ARGV[3], 4

local now = clock(now_ms)
local number, most, sizes = string.match(call, '^(%d+) (%d+) ([%d ]+)$')
number, most = integer(number), integer(most)
local asked = read_asked(items, now)
-- what is read before the first write fails there; these are only written, where an item needs it
check('LLEN', k.ready)
check('ZCARD', k.wakeup, k.scheduled, asked.has_windows and k.unique_until or nil)
check('HLEN', k.answers)
if asked.has_keys then check('HLEN', k.unique_of, k.state, k.crashes) end
local seen = string.match(redis.call('HGET', k.producers, nonce) or '', '^(%d+) ')
if seen and (natural(seen) or 0) >= number then
  redis.call('ZREM', k.scheduled, '') -- it hears what the first one heard; see `enqueue`
  redis.call('HSET', k.producers, nonce, seen .. ' ' .. whole(now))
  return answers_in(redis.call('HGET', k.answers, nonce), whole(number))
end
local meta = redis.call('HMGET', k.meta, 'closed', 'epoch', 'fence', 'max_jobs')
local closed, epoch, fence, shown = unpack(meta)
if natural(closed) then return redis.error_reply('QCLOSED ' .. closed .. ' ' .. k.jobs) end

local c = look_at(k, asked, now)
local waiting, at, is_full = most > 0 and waiting_in(k) or 0, 1, false
for size in string.gmatch(sizes, '%d+') do
  local last = at + integer(size) - 1
  local new = most > 0 and count_new(k, c, asked, at, last) or 0
  if new > 0 and (is_full or waiting + new > most) then
    is_full = true
    c.answers[#c.answers + 1] = { asked[at].id, 'full', whole(waiting) }
  else
    waiting = waiting + new
    for i = at, last do decide(k, c, asked[i]) end
  end
  at = last + 1
end
local added, earliest = write_jobs(k, c, struct.pack('>I8', now))
write_keys(k, c)
redis.call('HSET', k.producers, nonce, whole(number) .. ' ' .. whole(now))
local kept = whole(number) .. ' ' .. cmsgpack.pack(c.answers)
if #c.answers > 0 then redis.call('HSET', k.answers, nonce, kept) end
local since = natural(fence) and '0' or whole(now)
if not natural(epoch) then redis.call('HSET', k.meta, 'epoch', since) end -- see `enqueue`
if most > 0 and shown ~= whole(most) then redis.call('HSET', k.meta, 'max_jobs', whole(most)) end
if #added > 0 then redis.call('RPUSH', k.ready, unpack(added)) end
if #added > 0 or earliest then redis.call('ZADD', k.wakeup, 0, '1') end
return c.answers
