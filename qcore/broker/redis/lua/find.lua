-- find: where one job is; who gives a channel hears of its end.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       running    hash  job id -> token
--       jobs       hash  job id -> 8 bytes of Redis time + envelope
--       state      hash  job id -> mutable record
--       crashes    hash  job id -> `count ms`
--       scheduled  zset  job id -> due time, unix ms
--       dead       zset  job id -> time of death, unix ms
--       done       hash  job id -> `keep_ms outcome`, then the trace of it
--       cancels    hash  job id -> `keep_ms outcome`, a request to cancel it
--       waiters    hash  job id -> channels that hear of its end
--       meta       hash  fence, epoch, emptied, paused, closed, cleared, purged, max_jobs, and those of sweeps
--       unique     hash  unique key -> `until_ms first_ms count digest expires_ms id`, the job that holds it
--       unique_of  hash  job id -> letter and unique key that it holds
-- ARGV  id         text  the job
--       channel    text  where to publish its end; '' for nowhere
-- reply { where ('done', 'dead', 'active', 'scheduled', 'ready', ''), what `done` or `cancels` holds,
--       or payload (none with a channel), record, crashes, when (time of death, deadline or due time,
--       unix ms; where there is no trace: { now_ms, cleared, purged, epoch, fence } of the queue),
--       token, the field of `unique_of` and that of `unique` by which it holds a unique key (none with
--       a channel) }
-- @include clock kinds key_entries
local active, running, jobs, state, crashes, scheduled, dead, done = unpack(KEYS, 1, 8)
local cancels, waiters, meta, unique, unique_of = unpack(KEYS, 9, 13)
local id, channel = ARGV[1], ARGV[2]
-- So many channels of one job hear of its end; who comes later looks again by himself.
local MAX_BYTES = 1000

-- key_held: how the job holds a unique key, and what is noted of it.
local function key_held()
  local holds = redis.call('HGET', unique_of, id)
  local letter, key = key_in(holds)
  local text = letter and redis.call('HGET', unique, key)
  local entry = entry_in(text)
  if entry and entry.id == id and (entry.till == 0 or entry.till > clock('')) then return holds, text end
  return false, false
end

check('HLEN', state, crashes, waiters, meta)
redis.call('ZREM', active, '')
-- who only waits for the end needs neither key nor payload
local holds, key = false, false
if channel == '' then holds, key = key_held() end
local outcome = redis.call('HGET', done, id)
if outcome then return { 'done', outcome, false, false, false, false, holds, key } end
local where, at = 'dead', redis.call('ZSCORE', dead, id)
local token = redis.call('HGET', running, id)
if not at and token then
  where, at = 'active', redis.call('ZSCORE', active, token)
end
if not at then
  where, at = 'scheduled', redis.call('ZSCORE', scheduled, id)
end
local payload = channel == '' and redis.call('HGET', jobs, id)
if not at then where = redis.call('HEXISTS', jobs, id) == 1 and 'ready' or '' end
if where == '' then
  local notes = redis.call('HMGET', meta, 'cleared', 'purged', 'epoch', 'fence')
  at = { whole(clock('')), unpack(notes) }
end

-- A ready job with a request to cancel it will not run, though its id is still in line.
local cancel_request = where == 'ready' and redis.call('HGET', cancels, id)
if cancel_request then
  return { 'done', cancel_request, false, false, false, false, holds, key }
end
if channel ~= '' and where ~= 'dead' and where ~= '' then
  local known = redis.call('HGET', waiters, id)
  local is_in = known and string.find(' ' .. known .. ' ', ' ' .. channel .. ' ', 1, true)
  if not known then
    redis.call('HSET', waiters, id, channel)
  elseif not is_in and #known < MAX_BYTES then
    redis.call('HSET', waiters, id, known .. ' ' .. channel)
  end
end
return {
  where, payload, redis.call('HGET', state, id), redis.call('HGET', crashes, id), at, token, holds, key,
}
