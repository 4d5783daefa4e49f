-- give_back: takes a lease away and says where its job went. A charged loss counts as a crash:
-- the first returns to the head of ready, later ones wait 1, 2, 4 ... 60 s, the last is dead.
local function give_back(k, token, charge, now, crash_limit)
  local id = id_of(token)
  redis.call('ZREM', k.active, token)
  -- what a hand wrote: no token, or a second lease of a job that somebody else runs
  local held = id and redis.call('HGET', k.running, id)
  if not id or held and held ~= token and redis.call('ZSCORE', k.active, held) then
    return 'dropped'
  end
  redis.call('HDEL', k.running, id)
  local cancel_request = cancel_requests_of(k.cancels, { id })[1]
  if cancel_request then
    call_off(k, id, cancel_request, now)
    return 'cancelled'
  end
  local count = count_of(redis.call('HGET', k.crashes, id), now)
  if charge then
    count = count + 1
    redis.call('HSET', k.crashes, id, count .. ' ' .. whole(now))
    if count >= crash_limit then
      redis.call('ZADD', k.dead, whole(now), id)
      finish(k, { id }, 'dead')
      return 'dead'
    end
  end
  redis.call('ZADD', k.wakeup, 0, '1')
  if charge and count >= QUARANTINED then
    local wait = math.min(60000, 1000 * 2 ^ math.min(count - QUARANTINED, 16))
    redis.call('ZADD', k.scheduled, whole(now + wait), id)
    return 'scheduled'
  end
  push_ready(k, { id }, 'LPUSH', now)
  return 'ready'
end
