-- promote_due: moves at most `limit` due ids from scheduled to the tail of ready.
local function promote_due(scheduled, ready, now, limit)
  local due = redis.call('ZRANGEBYSCORE', scheduled, '-inf', whole(now), 'LIMIT', 0, limit)
  if #due > 0 then
    redis.call('ZREM', scheduled, unpack(due))
    redis.call('RPUSH', ready, unpack(due))
  end
  return #due
end
