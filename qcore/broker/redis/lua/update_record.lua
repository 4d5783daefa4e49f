-- update_record: active -> active, with a new record.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       state      hash  job id -> mutable record
-- ARGV  items...   token, record
-- reply the tokens that were lost: nothing was written for them
-- @include kinds tokens
local active, state = KEYS[1], KEYS[2]
local items = 1

check('HLEN', state)
redis.call('ZREM', active, '')
local lost = {}
for i = items, #ARGV - 1, 2 do
  local id = id_of(ARGV[i])
  if id and redis.call('ZSCORE', active, ARGV[i]) then
    redis.call('HSET', state, id, ARGV[i + 1])
  else
    lost[#lost + 1] = ARGV[i]
  end
end
return lost
