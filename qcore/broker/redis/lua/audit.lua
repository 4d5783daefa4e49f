-- audit: where each of some jobs lies, all at one moment. Reads only.
-- KEYS  ready      list  job ids, oldest first
--       quarantine list  ids of ready jobs that lost two leases, oldest first
--       scheduled  zset  job id -> due time, unix ms
--       active     zset  token -> lease deadline, unix ms
--       running    hash  job id -> token
--       jobs       hash  job id -> 8 bytes of Redis time + envelope
--       dead       zset  job id -> time of death, unix ms
--       done       hash  job id -> `keep_ms outcome`, then the trace of it
-- ARGV  items...   id, '1' if it was seen in a list, the tokens it was seen with (spaces between)
-- reply per id { how often in ready, due time or false, time of death or false, has a payload (0, 1),
--       has an outcome (0, 1), its token in running or false, those of the tokens that are leases,
--       how often in quarantined jobs }
local ready, quarantine, scheduled, active, running, jobs, dead, done = unpack(KEYS, 1, 8)
local items = 1

local reply = {}
for i = items, #ARGV, 3 do
  local id, times, leases, asked = ARGV[i], { 0, 0 }, {}, {}
  local token = redis.call('HGET', running, id)
  for seen in string.gmatch(ARGV[i + 2] .. ' ' .. (token or ''), '%S+') do
    if not asked[seen] and redis.call('ZSCORE', active, seen) then leases[#leases + 1] = seen end
    asked[seen] = true
  end
  local payload = redis.call('HEXISTS', jobs, id)
  -- A search through the whole list; most that looked odd have just ended.
  if payload == 1 or ARGV[i + 1] == '1' then
    times[1] = #redis.call('LPOS', ready, id, 'COUNT', 0)
    times[2] = #redis.call('LPOS', quarantine, id, 'COUNT', 0)
  end
  reply[#reply + 1] = {
    times[1], redis.call('ZSCORE', scheduled, id), redis.call('ZSCORE', dead, id), payload,
    redis.call('HEXISTS', done, id), token, leases, times[2],
  }
end
return reply
