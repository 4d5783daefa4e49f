-- audit: where each of some jobs lies, all at one moment. Reads only.
-- KEYS  ready      list  job ids, oldest first
--       scheduled  zset  job id -> due time, unix ms
--       active     zset  token -> lease deadline, unix ms
--       running    hash  job id -> token
--       jobs       hash  job id -> 8 bytes of Redis time + envelope
--       dead       zset  job id -> time of death, unix ms
--       done       hash  job id -> kept outcome
-- ARGV  items...   id, then the tokens it was seen with, with a space between two
-- reply per id { how often in ready, due time or false, time of death or false, has a payload (0, 1),
--       has an outcome (0, 1), its token in running or false, those of the tokens that are leases }
local ready, scheduled, active, running, jobs, dead, done = unpack(KEYS, 1, 7)
local items = 1

local reply = {}
for i = items, #ARGV, 2 do
  local id, leases, asked = ARGV[i], {}, {}
  local token = redis.call('HGET', running, id)
  for seen in string.gmatch(ARGV[i + 1] .. ' ' .. (token or ''), '%S+') do
    if not asked[seen] and redis.call('ZSCORE', active, seen) then leases[#leases + 1] = seen end
    asked[seen] = true
  end
  reply[#reply + 1] = {
    #redis.call('LPOS', ready, id, 'COUNT', 0), redis.call('ZSCORE', scheduled, id),
    redis.call('ZSCORE', dead, id), redis.call('HEXISTS', jobs, id),
    redis.call('HEXISTS', done, id), token, leases,
  }
end
return reply
