-- read_items: reads all arguments of a settle before its first write. Returns all tokens, and what
-- is to be kept, to be buried and to go back: { token, id, record, at (unix ms) }.
local function read_items(now, counts, items)
  local count = 0
  for _, n in ipairs(counts) do count = count + n end
  local tokens, plan = { unpack(ARGV, items, items + count - 1) }, { keep = {}, bury = {}, back = {} }
  local i, at = 0, items + count
  local function take(list, n, width)
    for _ = 1, n do
      i = i + 1
      local item = { token = tokens[i], id = id_of(tokens[i]) or '' }
      if width > 0 then item.record = ARGV[at] or error('too few items') end
      if width > 1 then item.at = whole(now + integer(ARGV[at + 1])) end
      list[#list + 1], at = item, at + width
    end
  end
  take(plan.keep, counts[1], 2)
  take(plan.back, counts[2], 2)
  take(plan.bury, counts[3], 1)
  take(plan.back, counts[4], 0)
  return tokens, plan
end

local function keep_outcomes(k, items, is_held, now)
  for _, item in ipairs(items) do
    if is_held[item.token] then
      keep(k, item.id, whole(item.at - now) .. ' ' .. item.record, item.at)
    end
  end
end

local function bury(k, items, is_held, now)
  local ids = {}
  for _, item in ipairs(items) do
    if is_held[item.token] then
      redis.call('HSET', k.state, item.id, item.record)
      redis.call('ZADD', k.dead, whole(now), item.id)
      ids[#ids + 1] = item.id
    end
  end
  finish(k, ids, 'dead')
end

-- go_back: retries to scheduled, releases to the head of their lists. No wakeup for a retry: the
-- worker that settles it plans by its own claim, and an idle one looks once per block interval.
local function go_back(k, items, is_held, now)
  local ids, released = {}, {}
  for i, item in ipairs(items) do ids[i] = item.id end
  local cancel_requests = cancel_requests_of(k.cancels, ids)
  for i, item in ipairs(items) do
    if not is_held[item.token] then
      -- lost: nothing is written for it
    elseif cancel_requests[i] then
      call_off(k, item.id, cancel_requests[i], now)
    elseif item.at then
      redis.call('HSET', k.state, item.id, item.record)
      redis.call('ZADD', k.scheduled, item.at, item.id)
    else
      released[#released + 1] = item.id
    end
  end
  push_ready(k, released, 'LPUSH', now)
  if #released > 0 then redis.call('ZADD', k.wakeup, 0, '1') end
end
