-- rise: the next fencing token of the queue. It grows with time, so also when a failover takes the
-- stored one, `last`, back.
local function rise(meta, last, now)
  local fence = whole(math.max((natural(last) or 0) + 1, now * 1000))
  redis.call('HSET', meta, 'fence', fence)
  return fence
end

-- columns: what is stored of leased jobs: records, crash counts and cancels, each {} when no job of
-- the queue has one, which is the rule; `k.is_plain` when that is known.
local function columns(k, ids)
  if k.is_plain then return {}, {}, {} end
  local found = {}
  for i, key in ipairs({ k.state, k.crashes, k.cancels }) do
    found[i] = redis.call('EXISTS', key) == 1 and redis.call('HMGET', key, unpack(ids)) or {}
  end
  return unpack(found)
end
