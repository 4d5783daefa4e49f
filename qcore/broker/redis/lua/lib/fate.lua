local function waiting_in(k)
  return redis.call('LLEN', k.ready) + redis.call('LLEN', k.quarantine) + redis.call('ZCARD', k.scheduled)
end

-- place_of: where the holder of a key is: 'waiting', 'running'; or 'over' for what has ended, or will
-- not run, or is another job.
local function place_of(k, c, entry, key)
  local id = entry.id
  if not entry.is_own then return 'over' end
  if c.jobs[id] then return c.jobs[id].key == key and 'waiting' or 'over' end
  if redis.call('HEXISTS', k.jobs, id) == 0 or redis.call('ZSCORE', k.dead, id) then return 'over' end
  if redis.call('HEXISTS', k.running, id) == 1 then return 'running' end
  local is_late = entry.expires > 0 and entry.expires <= c.now
  return (is_late or redis.call('HEXISTS', k.cancels, id) == 1) and 'over' or 'waiting'
end

-- fate: what becomes of an item, and what its key's field says; nothing is changed. A key whose holder
-- is over is free, however that came about; one with a window when that is over, as far as the item
-- knows of windows: the code may have changed its mind.
local function fate(k, c, item)
  local payload = c.payloads[item.id]
  if item.is_own and (payload or redis.call('HEXISTS', k.done, item.id) == 1) then return 'joined' end
  if payload then return payload == item.envelope and 'known' or 'taken' end
  local entry = item.key and c.entries[item.key]
  if not entry then return 'created' end
  local place = place_of(k, c, entry, item.key)
  local is_free = place == 'over' or (place == 'running' and item.letter == 's')
  if item.window and entry.till > 0 then is_free = entry.till <= c.now end
  if is_free then return 'created' end
  if item.conflict == 'replace' and place == 'waiting' then return 'replaced', entry end
  local is_held = entry.till == 0 or not item.window or item.conflict == 'repeat'
  return is_held and 'joined' or 'throttled', entry
end

-- count_new: how many jobs a parcel would add.
local function count_new(k, c, asked, first, last)
  local new, met = 0, {}
  for i = first, last do
    local item = asked[i]
    if fate(k, c, item) == 'created' and not met['i' .. item.id] and not met['k' .. (item.key or '')] then
      new = new + 1
      met['i' .. item.id] = true
      if item.key then met['k' .. item.key] = true end
    end
  end
  return new
end
