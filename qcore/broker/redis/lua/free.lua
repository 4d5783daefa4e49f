-- free: frees unique keys, whatever becomes of the jobs that hold them.
-- KEYS  active     zset  token -> lease deadline, unix ms
--       unique     hash  unique key -> `until_ms first_ms count digest expires_ms id`, the job that holds it
--       unique_of  hash  job id -> letter and unique key that it holds
--       unique_until zset unique key -> end of its window, unix ms
-- ARGV  keys...
-- reply how many were held
-- @include clock kinds key_entries unique_keys
local active, unique, unique_of, unique_until = unpack(KEYS, 1, 4)
local keys = ARGV

check('HLEN', unique, unique_of)
check('ZCARD', unique_until)
redis.call('ZREM', active, '')
local freed = 0
for _, key in ipairs(keys) do
  local entry = entry_in(redis.call('HGET', unique, key))
  if entry then disown(unique_of, entry.id, key) end
  freed = freed + redis.call('HDEL', unique, key)
  redis.call('ZREM', unique_until, key)
end
return freed
