-- look: says whether anything waits in a queue; then all its keys are checked, for a claim that fails
-- after it took jobs would lose them for a lease. `k.is_plain`: of its jobs only payloads are stored,
-- and perhaps the unique keys of some (`k.is_keyed`), and `k.length` of them are ready.
local function look(k, now)
  k.length = redis.call('LLEN', k.ready)
  if k.length == 0 and redis.call('EXISTS', k.quarantine, k.scheduled) == 0 then return false end
  local meta = redis.call('HMGET', k.meta, 'paused', 'fence')
  k.pause, k.fence = pause_end(meta[1], now), meta[2]
  local others = redis.call('EXISTS', k.quarantine, k.scheduled, k.state, k.crashes, k.cancels,
    k.unique_of)
  k.is_keyed = others > 0 and redis.call('EXISTS', k.unique_of) == 1
  k.is_plain = others == (k.is_keyed and 1 or 0)
  check('ZCARD', k.active, k.wakeup)
  check('HLEN', k.running, k.jobs)
  if k.is_keyed then check('HLEN', k.unique, k.unique_of) end
  if not k.is_plain then
    check('LLEN', k.quarantine)
    check('ZCARD', k.scheduled)
    check('HLEN', k.state, k.crashes, k.cancels)
  end
  return true
end

-- lease: writes the tokens `prefix .. id` of all ids.
local function lease(active, running, ids, prefix, deadline)
  local members, index = {}, {}
  for i, id in ipairs(ids) do
    members[2 * i - 1], members[2 * i] = deadline, prefix .. id
    index[2 * i - 1], index[2 * i] = id, members[2 * i]
  end
  redis.call('ZADD', active, unpack(members))
  redis.call('HSET', running, unpack(index))
end
