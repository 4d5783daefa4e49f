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

-- A claim, `c`: the time, jobs and bytes that it may still take, due jobs that it may still promote,
-- jobs that it took; whether it is for ordinary jobs, and else whether nothing runs where it is from.

-- pick: takes as many ids from the list of a queue as may fit, oldest first; what is due comes along.
local function pick(c, k)
  local promoted = k.is_plain and 0 or promote_due(k, c.now, math.max(c.promote, 1))
  c.promote = c.promote - promoted
  -- who claims quarantined jobs wakes somebody for what else became ready
  if promoted > 0 and not c.is_plain and not k.pause then redis.call('ZADD', k.wakeup, 0, '1') end
  local most = math.min(c.left, k.most)
  if k.is_plain and c.is_plain then most = math.min(most, k.length) end
  if most > 1 then most = likely(k.list, k.jobs, most, c.room) end
  if not c.is_plain then
    most, c.left = company(k, most, c.left, c.is_idle and c.taken == 0, c.now)
  end
  return not k.pause and redis.call('LPOP', k.list, most) or {}
end

-- admit: leaves those ids that may begin now; the others go back to the head. Returns payloads.
local function admit(c, k, ids)
  local payloads
  payloads, c.room = fitting(k.list, k.jobs, ids, c.room)
  return payloads
end

-- look_ahead: when there can be more to claim of a queue; wakes somebody where that is now.
local function look_ahead(c, k)
  if k.pause then return k.pause end
  local left = k.is_plain and c.is_plain and k.length - (k.taken or 0) or redis.call('LLEN', k.list)
  if left > 0 then
    -- Two idle workers would spin if a claim without jobs woke anybody; quarantine has no wakeup.
    if c.taken > 0 and c.is_plain then redis.call('ZADD', k.wakeup, 0, '1') end
    return c.now
  end
  if k.is_plain then return math.huge end
  local first = redis.call('ZRANGE', k.scheduled, 0, 0, 'WITHSCORES')
  return first[2] and math.max(c.now, tonumber(first[2])) or math.huge
end
