-- look: says whether anything waits in a queue; then all its keys are checked, for a claim that fails
-- after it took jobs would lose them for a lease. `k.is_plain`: of its jobs only payloads are stored.
local function look(k, now)
  if redis.call('EXISTS', k.ready, k.quarantine, k.scheduled) == 0 then return false end
  local meta = redis.call('HMGET', k.meta, 'paused', 'fence')
  k.pause, k.fence = pause_end(meta[1], now), meta[2]
  check('LLEN', k.ready)
  check('ZCARD', k.active, k.wakeup)
  check('HLEN', k.running, k.jobs)
  k.is_plain = redis.call('EXISTS', k.quarantine, k.scheduled, k.state, k.crashes, k.cancels) == 0
  if not k.is_plain then
    check('LLEN', k.quarantine)
    check('ZCARD', k.scheduled)
    check('HLEN', k.state, k.crashes, k.cancels)
  end
  return true
end

-- From so many lost leases on a job has a process for itself, so that its end is a proof.
local ALONE = 3

-- company: how many of `most` quarantined jobs at the head of the list may begin in one process, and
-- how many jobs of all queues: several that have lost fewer, or one where nothing else runs. None
-- passes one that has to be alone, or that would wait for ever.
local function company(k, most, left, is_idle, now)
  if most < 1 or k.pause then return most, left end
  local ids = {}
  for i = 1, math.min(most, redis.call('LLEN', k.quarantine)) do
    ids[i] = redis.call('LINDEX', k.quarantine, i - 1)
  end
  for i, count in ipairs(crashes_of(k.crashes, ids, now)) do
    if count >= ALONE then
      most = i > 1 and i - 1 or is_idle and 1 or 0
      return most, most
    end
  end
  return most, left
end

-- likely: how many jobs to look at when `room` bytes fit, if all are as large as the oldest one;
-- payloads that do not fit would be read for nothing, and by each claim again.
local function likely(list, jobs, most, room)
  local oldest = redis.call('LINDEX', list, 0)
  local size = oldest and redis.call('HSTRLEN', jobs, oldest) or 0
  return size == 0 and most or math.min(most, math.floor(room / size) + 1)
end

-- So many payloads are read at once: the oldest may be small and the others as large as they can be,
-- and what does not fit is read for nothing.
local PART = 16

-- fitting: reads the payloads that fit into `room` bytes, at least one; the other ids go back to the
-- head. Returns the payloads, and the room that is left.
local function fitting(list, jobs, ids, room)
  local payloads, fit = {}, 0
  while fit < #ids and (room > 0 or fit == 0) do
    local part = redis.call('HMGET', jobs, unpack(ids, fit + 1, math.min(fit + PART, #ids)))
    for i = 1, #part do
      room = room - #(part[i] or '')
      if room < 0 and fit > 0 then break end
      fit = fit + 1
      payloads[fit] = part[i]
    end
  end
  local rest = {}
  for i = #ids, fit + 1, -1 do rest[#rest + 1], ids[i] = ids[i], nil end
  if #rest > 0 then redis.call('LPUSH', list, unpack(rest)) end
  return payloads, room
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
