-- forget: removes all that is stored of `ids` but their outcomes. Most jobs have neither a record,
-- nor a crash count, nor a cancel request; `k.is_plain` when it is known that none has.
local function forget(ids, k)
  if #ids == 0 then return end
  redis.call('HDEL', k.jobs, unpack(ids))
  if k.is_plain or redis.call('EXISTS', k.state, k.crashes, k.cancels) == 0 then return end
  for _, key in ipairs({ k.state, k.crashes, k.cancels }) do redis.call('HDEL', key, unpack(ids)) end
end
