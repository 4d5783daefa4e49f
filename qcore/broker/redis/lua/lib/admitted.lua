-- answers_in: what a call answered, kept as `call answers`; {} where nothing, or of another call.
local function answers_in(kept, call)
  local of, at = string.match(kept or '', '^(%d+) ()')
  if of ~= call then return {} end
  local is_sound, answers = pcall(cmsgpack.unpack, string.sub(kept, at))
  return is_sound and type(answers) == 'table' and answers or {}
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
    if entry.stale then disown(k.unique_of, entry.stale, key) end
  end
  -- an id that was used before, and held a key
  for _, job in ipairs(c.plan) do
    if job.is_own then redis.call('HDEL', k.unique_of, job.id) end
  end
  local entries, holders, windows = {}, {}, {}
  for key, entry in pairs(c.changed) do
    entries[#entries + 1], entries[#entries + 2] = key, entry_text(entry)
    if entry.letter then
      holders[#holders + 1], holders[#holders + 2] = entry.id, entry.letter .. key
    end
    if entry.letter == 'w' or entry.is_cut then
      windows[#windows + 1], windows[#windows + 2] = whole(entry.till), key
    end
  end
  if #entries > 0 then redis.call('HSET', k.unique, unpack(entries)) end
  if #holders > 0 then redis.call('HSET', k.unique_of, unpack(holders)) end
  if #windows > 0 then redis.call('ZADD', k.unique_until, unpack(windows)) end
end
