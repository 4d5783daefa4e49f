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

-- cancel_requests_of: what `cancels` holds for `ids`; {} when nobody wants any job cancelled.
local function cancel_requests_of(cancels, ids)
  if #ids == 0 or redis.call('EXISTS', cancels) == 0 then return {} end
  return redis.call('HMGET', cancels, unpack(ids))
end

-- call_off: -> cancelled, with the outcome that came with the cancel request: `keep_ms outcome`.
local function call_off(k, id, cancel_request, now)
  redis.call('HSET', k.done, id, cancel_request)
  local keep_ms = natural(string.match(cancel_request, '^(%d+) ')) or 0
  redis.call('ZADD', k.expiry, whole(now + keep_ms), id)
  forget({ id }, k)
  announce(k.waiters, { id }, 'cancelled')
end
