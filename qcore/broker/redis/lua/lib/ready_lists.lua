-- Two lists of ready jobs. One that has lost two leases is quarantined: it may be what kills its
-- process, so it waits in `quarantine` for a process of its own.

-- crashes_of: how many leases each of `ids` has lost; {} when no job of the queue has lost one.
local function crashes_of(crashes, ids, now)
  if #ids == 0 or redis.call('EXISTS', crashes) == 0 then return {} end
  local counts = redis.call('HMGET', crashes, unpack(ids))
  for i = 1, #ids do counts[i] = count_of(counts[i], now) end
  return counts
end

-- push_ready: puts `ids`, oldest first, at the tail ('RPUSH') or the head ('LPUSH') of their lists.
local function push_ready(k, ids, side, now)
  if #ids == 0 then return end
  local counts, ready, quarantine = crashes_of(k.crashes, ids, now), {}, {}
  for i, id in ipairs(ids) do
    -- what is pushed last stands first at the head
    local list = (counts[i] or 0) < QUARANTINED and ready or quarantine
    if side == 'LPUSH' then table.insert(list, 1, id) else list[#list + 1] = id end
  end
  if #ready > 0 then redis.call(side, k.ready, unpack(ready)) end
  if #quarantine > 0 then redis.call(side, k.quarantine, unpack(quarantine)) end
end

-- promote_due: moves at most `limit` due ids from scheduled to the tail of their lists.
local function promote_due(k, now, limit)
  local due = redis.call('ZRANGEBYSCORE', k.scheduled, '-inf', whole(now), 'LIMIT', 0, limit)
  if #due > 0 then
    redis.call('ZREM', k.scheduled, unpack(due))
    push_ready(k, due, 'RPUSH', now)
  end
  return #due
end
