-- read_item: a job that is asked for. Behind its due time may stand `own until conflict digest expires
-- key`: '1' for an id that a user gave; until when it holds its key, 'done', 'started', a number of ms,
-- or '-' for no key; what is done where another job holds it, 'keep', 'replace', or 'repeat' for a key
-- of idempotency; a digest of the arguments; in how many ms it expires, 0 for never.
local function read_item(id, when, envelope, now)
  local due, own, till, conflict, digest, expires, key = string.match(
    when, '^(%S*) ([01]) (%S+) (%S+) (%S+) (%S+) (.*)$')
  local item = { id = id, envelope = envelope, due = false, is_own = own == '1' }
  due = due or when
  if due ~= '' then
    local at = integer(string.sub(due, 2)) + (string.sub(due, 1, 1) == '+' and now or 0)
    item.due = at > now and whole(at)
  end
  if key and till ~= '-' then
    item.key, item.conflict, item.digest = key, conflict, digest
    item.expires = expires ~= '0' and now + integer(expires) or 0
    item.window = till ~= 'done' and till ~= 'started' and integer(till)
    item.letter = item.window and 'w' or string.sub(till, 1, 1)
  end
  return item
end

local function read_asked(items, now)
  if #ARGV % 3 ~= 0 or #ARGV > 6000 then error('not three words for each of 2,000 jobs') end
  local asked = {}
  for i = items, #ARGV, 3 do
    local item = read_item(ARGV[i], ARGV[i + 1], ARGV[i + 2], now)
    asked[#asked + 1] = item
    -- an id that was used before may have held a key, and its answer is kept
    asked.has_keys = asked.has_keys or item.key or item.is_own
    asked.has_windows = asked.has_windows or item.window
  end
  return asked
end

-- look_at: what the items meet, before anything is written. `payloads` by id, `entries` by key: false
-- where there is none; both are kept up to date with what this call is about to write.
local function look_at(k, asked, now)
  local c = { now = now, payloads = {}, entries = {}, jobs = {}, plan = {}, changed = {}, answers = {} }
  local ids, keys = {}, {}
  for _, item in ipairs(asked) do
    ids[#ids + 1] = item.id
    if item.key then keys[#keys + 1] = item.key end
  end
  for i, payload in ipairs(redis.call('HMGET', k.jobs, unpack(ids))) do
    c.payloads[ids[i]] = payload and string.sub(payload, 9)
  end
  if #keys > 0 then
    for i, text in ipairs(redis.call('HMGET', k.unique, unpack(keys))) do
      local entry = entry_in(text)
      c.entries[keys[i]] = entry
      -- its id may be that of another job by now, as anybody may give one, or a hand may have written it
      if entry then
        local _, own = key_in(redis.call('HGET', k.unique_of, entry.id))
        entry.is_own = own == keys[i]
      end
    end
  end
  return c
end
