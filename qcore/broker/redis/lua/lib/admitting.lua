-- plan: a job that is to be written, or what is to be written of it instead.
local function plan(c, item, id, is_new)
  local job = c.jobs[id]
  if not job then
    job = { id = id, is_new = is_new }
    c.jobs[id], c.plan[#c.plan + 1] = job, job
  end
  job.envelope, job.due = item.envelope, item.due
  c.payloads[id] = item.envelope
end

-- decide: plans what becomes of an item, and says so unless it is created.
local function decide(k, c, item)
  local how, entry = fate(k, c, item)
  if how == 'created' then
    plan(c, item, item.id, true)
    if not item.key then return end
    local before = c.entries[item.key]
    entry = { till = item.window and c.now + item.window or 0, first = c.now, count = 1 }
    entry.digest, entry.id, entry.letter = item.digest, item.id, item.letter
    -- who held it for a window, or is gone, holds it no longer; a dead job may be revived with it
    local is_stale = before and (before.till > 0 or redis.call('HEXISTS', k.jobs, before.id) == 0)
    entry.stale = is_stale and before.id
    c.entries[item.key], c.changed[item.key] = entry, entry
    return
  end
  if not entry then
    c.answers[#c.answers + 1] = { item.id, how, item.id }
    return
  end
  if how == 'replaced' then plan(c, item, entry.id, false) end
  entry.count = entry.count + 1
  c.changed[item.key] = entry
  c.answers[#c.answers + 1] =
    { item.id, how, entry.id, whole(entry.first), whole(entry.count), entry.digest }
  -- those that come next are compared with what will run
  if how == 'replaced' then entry.digest = item.digest end
end

-- write_jobs: the first write fails where Redis is full, before anything is done. What is replaced
-- begins anew; a ready job keeps its place. Returns the ids for the tail of ready, and whether one is
-- due before all that are scheduled.
local function write_jobs(k, c, stamp)
  local words, added, earliest = {}, {}, false
  if #c.plan == 0 then return added, earliest end
  for _, job in ipairs(c.plan) do
    words[#words + 1], words[#words + 2] = job.id, stamp .. job.envelope
  end
  redis.call('HSET', k.jobs, unpack(words))
  for _, job in ipairs(c.plan) do
    local is_placed = job.is_new
    if not is_placed then
      redis.call('HDEL', k.state, job.id)
      redis.call('HDEL', k.crashes, job.id)
      is_placed = redis.call('ZREM', k.scheduled, job.id) == 1
    end
    if is_placed and job.due then
      redis.call('ZADD', k.scheduled, job.due, job.id)
      earliest = earliest or redis.call('ZRANK', k.scheduled, job.id) == 0
    elseif is_placed then
      added[#added + 1] = job.id
    end
  end
  return added, earliest
end

-- write_keys: who holds the keys from now on, and how often each was asked for.
local function write_keys(k, c)
  for key, entry in pairs(c.changed) do
    redis.call('HSET', k.unique, key, whole(entry.till) .. ' ' .. whole(entry.first) .. ' '
      .. whole(entry.count) .. ' ' .. entry.digest .. ' ' .. entry.id)
    if entry.stale then redis.call('HDEL', k.unique_of, entry.stale) end
    if entry.letter then redis.call('HSET', k.unique_of, entry.id, entry.letter .. key) end
    if entry.letter == 'w' then redis.call('ZADD', k.unique_until, whole(entry.till), key) end
  end
end
