-- give_back: takes a lease away and says where its job went. A charged loss counts as a crash:
-- the first returns to the head of ready, later ones wait 1, 2, 4 ... 60 s, the last is dead.
-- A count is `crashes ms`; one older than 72 h is forgotten.
local function give_back(k, token, charge, now, crash_limit)
  local id, count = id_of(token), 0
  redis.call('ZREM', k.active, token)
  redis.call('HDEL', k.running, id)
  if charge then
    local seen, at = string.match(redis.call('HGET', k.crashes, id) or '', '^(%d+) (%d+)$')
    count = 1
    if seen and now - at < 72 * 3600 * 1000 then count = seen + 1 end
    redis.call('HSET', k.crashes, id, count .. ' ' .. whole(now))
  end
  if count >= crash_limit then
    redis.call('ZADD', k.dead, whole(now), id)
    return 'dead'
  end
  redis.call('ZADD', k.wake, 0, '1')
  if count < 2 then
    redis.call('LPUSH', k.ready, id)
    return 'ready'
  end
  local wait = math.min(60000, 1000 * 2 ^ math.min(count - 2, 16))
  redis.call('ZADD', k.scheduled, whole(now + wait), id)
  return 'scheduled'
end
