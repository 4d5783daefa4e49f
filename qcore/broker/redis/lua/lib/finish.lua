-- awaited: the channels that those who wait for the end of `ids` left, false where nobody waits; {}
-- when nobody waits for any job of the queue.
local function awaited(waiters, ids)
  if #ids == 0 or redis.call('EXISTS', waiters) == 0 then return {} end
  return redis.call('HMGET', waiters, unpack(ids))
end

-- announce: tells whoever waits for the end of these jobs to look now.
local function announce(waiters, ids, status)
  local channels = awaited(waiters, ids)
  if #channels == 0 then return end
  for i, id in ipairs(ids) do
    for channel in string.gmatch(channels[i] or '', '%S+') do
      redis.pcall('PUBLISH', channel, id .. ' ' .. status)
    end
  end
  redis.call('HDEL', waiters, unpack(ids))
end

-- finish: the one way in which jobs end, whatever ends them: 'completed', 'cancelled', 'dead', or
-- 'purged' for what was dead. All that is stored of them goes, but for what was kept, and for what a
-- dead job needs to be revived. Most jobs have no record, crash count, cancel request, waiter or unique
-- key: `k.is_plain` when it is known that none of the queue has.
local function finish(k, ids, status)
  if #ids == 0 then return end
  if status == 'dead' then
    redis.call('HDEL', k.cancels, unpack(ids))
  else
    redis.call('HDEL', k.jobs, unpack(ids))
    if k.is_plain then return end
    if redis.call('EXISTS', k.state, k.crashes, k.cancels) > 0 then
      for _, key in ipairs({ k.state, k.crashes, k.cancels }) do
        redis.call('HDEL', key, unpack(ids))
      end
    end
  end
  free_keys(k, ids, 'ds', status ~= 'dead')
  announce(k.waiters, ids, status)
end
