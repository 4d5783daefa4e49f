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
