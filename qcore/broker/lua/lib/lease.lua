-- look: says whether anything waits in a queue; then all its keys are checked, for a claim that fails
-- after it took jobs would lose them for a lease.
local function look(k, now)
  if redis.call('EXISTS', k.ready, k.suspects, k.scheduled) == 0 then return false end
  local meta = redis.call('HMGET', k.meta, 'paused', 'fence')
  k.pause, k.fence = pause_end(meta[1], now), meta[2]
  check('LLEN', k.ready, k.suspects)
  check('ZCARD', k.scheduled, k.active, k.wake)
  check('HLEN', k.running, k.jobs, k.state, k.crashes, k.cancels)
  return true
end

-- likely: how many jobs to look at when `room` bytes fit, if all are as large as the oldest one;
-- payloads that do not fit would be read for nothing, and by each claim again.
local function likely(line, jobs, most, room)
  local oldest = redis.call('LINDEX', line, 0)
  local size = oldest and redis.call('HSTRLEN', jobs, oldest) or 0
  return size == 0 and most or math.min(most, math.floor(room / size) + 1)
end

-- fitting: how many payloads fit into `room` bytes, at least one; the others go back to the head.
-- Returns the room that is left.
local function fitting(line, ids, payloads, room)
  local fit = 0
  for i = 1, #ids do
    room = room - #(payloads[i] or '')
    if room < 0 and i > 1 then break end
    fit = i
  end
  for i = #ids, fit + 1, -1 do
    redis.call('LPUSH', line, ids[i])
    ids[i], payloads[i] = nil, nil
  end
  return room
end

-- lease: writes the tokens `prefix .. id` of all ids.
local function lease(active, running, ids, prefix, deadline)
  local members, index = {}, {}
  for i, id in ipairs(ids) do
    local token = prefix .. id
    members[2 * i - 1], members[2 * i] = deadline, token
    index[2 * i - 1], index[2 * i] = id, token
  end
  redis.call('ZADD', active, unpack(members))
  redis.call('HSET', running, unpack(index))
end
