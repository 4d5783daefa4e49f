-- plan: a job that is to be written, or what is to be written of it instead.
local function plan(c, item, id, is_new)
  local job = c.jobs[id]
  if not job then
    job = { id = id, key = item.key, is_new = is_new, is_own = is_new and item.is_own }
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
    entry.digest, entry.expires, entry.id = item.digest, item.expires, item.id
    entry.letter, entry.is_own = item.letter, true
    -- who held it before holds it no longer; but a dead job may be revived with it
    local is_stale = before and (before.till > 0 or not redis.call('ZSCORE', k.dead, before.id))
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
  -- the clock went back; or the code says a shorter one by now, which each request may for itself
  local is_long = item.window and entry.till > c.now + item.window
    and (entry.first > c.now or item.conflict ~= 'repeat')
  if is_long then entry.till, entry.is_cut = c.now + item.window, true end
  c.answers[#c.answers + 1] =
    { item.id, how, entry.id, whole(entry.first), whole(entry.count), entry.digest }
  -- those that come next are compared with what will run
  if how == 'replaced' then entry.digest, entry.expires = item.digest, item.expires end
end
