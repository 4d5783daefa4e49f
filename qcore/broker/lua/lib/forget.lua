-- forget: removes all that is stored of `ids`. Most jobs have neither a record nor a crash count.
local function forget(ids, jobs, state, crashes)
  if #ids == 0 then return end
  redis.call('HDEL', jobs, unpack(ids))
  if redis.call('EXISTS', state) == 1 then redis.call('HDEL', state, unpack(ids)) end
  if redis.call('EXISTS', crashes) == 1 then redis.call('HDEL', crashes, unpack(ids)) end
end
