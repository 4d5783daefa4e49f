-- forget: removes all that is stored of `ids` but their outcomes. Most jobs have neither a record,
-- nor a crash count, nor a wish.
local function forget(ids, k)
  if #ids == 0 then return end
  redis.call('HDEL', k.jobs, unpack(ids))
  for _, key in ipairs({ k.state, k.crashes, k.cancels }) do
    if redis.call('EXISTS', key) == 1 then redis.call('HDEL', key, unpack(ids)) end
  end
end
