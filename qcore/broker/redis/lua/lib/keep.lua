-- keep: leaves an outcome for whoever asks, `kept` being `keep_ms outcome`, until a time.
local function keep(k, id, kept, until_ms)
  redis.call('HSET', k.done, id, kept)
  redis.call('ZADD', k.expiry, whole(until_ms), id)
end

-- cancel_requests_of: what `cancels` holds for `ids`; {} when nobody wants any job cancelled.
local function cancel_requests_of(cancels, ids)
  if #ids == 0 or redis.call('EXISTS', cancels) == 0 then return {} end
  return redis.call('HMGET', cancels, unpack(ids))
end

-- call_off: -> cancelled, with the outcome that came with the cancel request: `keep_ms outcome`.
local function call_off(k, id, cancel_request, now)
  local keep_ms = natural(string.match(cancel_request, '^(%d+) ')) or 0
  keep(k, id, cancel_request, now + keep_ms)
  finish(k, { id }, 'cancelled')
end
