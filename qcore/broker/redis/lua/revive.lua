-- revive: dead -> tail of ready, with a fresh count of crashes.
-- It takes its unique key again: one whose key another job holds by now stays dead.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       dead       zset  job id -> time of death, unix ms
--       jobs       hash  job id -> 8 bytes of Redis time + envelope
--       state      hash  job id -> mutable record
--       crashes    hash  job id -> `count ms`
--       ready      list  job ids, oldest first
--       wakeup     zset  one member, "come and claim", which an idle worker pops
--       unique     hash  unique key -> `until_ms first_ms count digest expires_ms id`, the job that holds it
--       unique_of  hash  job id -> letter and unique key that it holds
--       unique_until zset unique key -> end of its window, unix ms
-- ARGV  now_ms     ms    '' for the Redis clock
--       items...   id, its new record
-- reply the ids that were revived: those dead, with a payload; { id, id of the job that holds its key }
-- @include clock kinds key_entries unique_keys
local active, dead, jobs, state, crashes, ready, wakeup = unpack(KEYS, 1, 7)
local unique, unique_of, unique_until = unpack(KEYS, 8, 10)
local now_ms, items = ARGV[1], 2

local now = clock(now_ms)
if #ARGV % 2 == 0 then error('an id without a record') end
check('LLEN', ready)
check('ZCARD', dead, wakeup, unique_until)
check('HLEN', jobs, state, crashes, unique, unique_of)
redis.call('ZREM', active, '')

-- is_live: whether a job holds the key that its field of `unique` says. One that has ended without a
-- word to its key holds nothing, nor one that is another by now.
local function is_live(entry, key)
  local _, own = key_in(redis.call('HGET', unique_of, entry.id))
  return own == key and redis.call('HEXISTS', jobs, entry.id) == 1
    and not redis.call('ZSCORE', dead, entry.id)
end

-- take_key: gives a job its key again; returns the id of the one that holds it.
local function take_key(id, payload)
  local letter, key = key_in(redis.call('HGET', unique_of, id))
  if letter ~= 'd' then return false end
  local entry = entry_in(redis.call('HGET', unique, key))
  if entry and entry.id ~= id then
    if is_live(entry, key) or entry.till > now then return entry.id end
    disown(unique_of, entry.id, key)
  end
  redis.call('ZREM', unique_until, key)
  local first = #payload >= 8 and struct.unpack('>I8', payload) or 0
  local taken = { till = 0, first = first, count = 1, digest = '-', expires = 0, id = id }
  redis.call('HSET', unique, key, entry_text(taken))
  return false
end

local reply, is_woken = {}, false
for i = items, #ARGV, 2 do
  local id = ARGV[i]
  local payload = redis.call('HGET', jobs, id)
  if payload and redis.call('ZSCORE', dead, id) then
    local holder = take_key(id, payload)
    if holder then
      reply[#reply + 1] = { id, holder }
    else
      redis.call('ZREM', dead, id)
      redis.call('HDEL', crashes, id)
      redis.call('HSET', state, id, ARGV[i + 1])
      redis.call('RPUSH', ready, id)
      reply[#reply + 1], is_woken = id, true
    end
  end
end
if is_woken then redis.call('ZADD', wakeup, 0, '1') end
return reply
