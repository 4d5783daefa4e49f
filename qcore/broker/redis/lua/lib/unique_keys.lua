-- A unique key is a field of `unique`, which says which job holds it. A job that holds one names it in
-- `unique_of`, behind a letter: 'd', until it is done; 's', until it is started; 'w', while a window
-- lasts, whatever becomes of the job. Anybody can write anything into Redis: what cannot be read holds
-- nothing.

-- entry_in: what a field of `unique` says; false for nothing. `till` is 0 where no window lasts, and
-- `expires` where the job does not expire.
local function entry_in(text)
  local till, first, count, digest, expires, id = string.match(
    text or '', '^(%d+) (%d+) (%d+) (%S+) (%d+) (.+)$')
  local e = { till = natural(till), first = natural(first), count = natural(count) }
  e.digest, e.expires, e.id = digest, natural(expires), id
  return e.till and e.first and e.count and e.expires and e
end

-- entry_text: the other way.
local function entry_text(e)
  return string.format('%.0f %.0f %.0f %s %.0f %s', e.till, e.first, e.count, e.digest, e.expires, e.id)
end

-- key_in: the letter and the key in a field of `unique_of`.
local function key_in(text) return string.match(text or '', '^([dsw])(.+)$') end

-- disown: a job no longer holds a key in its own eyes, unless it holds another by now.
local function disown(unique_of, id, key)
  local _, own = key_in(redis.call('HGET', unique_of, id))
  if own == key then redis.call('HDEL', unique_of, id) end
end

-- free_keys: frees the keys that `ids` hold by one of `letters`. `is_over`: they hold them no longer
-- in their own eyes either; a dead job takes its key again when it is revived.
local function free_keys(k, ids, letters, is_over)
  if #ids == 0 or redis.call('EXISTS', k.unique_of) == 0 then return end
  local holders, fields, freed = {}, {}, {}
  for i, text in ipairs(redis.call('HMGET', k.unique_of, unpack(ids))) do
    local letter, field = key_in(text)
    if letter and string.find(letters, letter, 1, true) then
      holders[#holders + 1], fields[#fields + 1] = ids[i], field
    end
  end
  if #holders == 0 then return end
  for i, text in ipairs(redis.call('HMGET', k.unique, unpack(fields))) do
    local entry = entry_in(text)
    if entry and entry.id == holders[i] then freed[#freed + 1] = fields[i] end
  end
  if #freed > 0 then redis.call('HDEL', k.unique, unpack(freed)) end
  if is_over then redis.call('HDEL', k.unique_of, unpack(holders)) end
end
