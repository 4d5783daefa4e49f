-- judge_keys: who holds some unique keys, and what some jobs hold, at one moment. Reads only.
-- KEYS  jobs       hash  job id -> 8 bytes of Redis time + envelope
--       dead       zset  job id -> time of death, unix ms
--       unique     hash  unique key -> `until_ms first_ms count digest expires_ms id`, the job that holds it
--       unique_of  hash  job id -> letter and unique key that it holds
-- ARGV  count      int   how many of the items are keys
--       items...   keys, then ids
-- reply per key { what `unique` holds of it or false, '' or the id in it, 1 if that job lives and holds
--       it };
--       per id { what `unique_of` holds of it or false, 1 if it has a payload, 1 if it waits or runs }
-- @include clock key_entries
local jobs, dead, unique, unique_of = unpack(KEYS, 1, 4)
local count, items = ARGV[1], 2

local reply = {}
local function has_payload(id) return redis.call('HEXISTS', jobs, id) end
local function is_live(id)
  return has_payload(id) == 1 and not redis.call('ZSCORE', dead, id) and 1 or 0
end
local keys = integer(count)
for i = items, #ARGV do
  local word = ARGV[i]
  if i - items < keys then
    local text = redis.call('HGET', unique, word)
    local entry = entry_in(text)
    local _, own = key_in(entry and redis.call('HGET', unique_of, entry.id))
    local is_held = own == word and is_live(entry.id) or 0
    reply[#reply + 1] = { text, entry and entry.id or '', is_held }
  else
    reply[#reply + 1] = { redis.call('HGET', unique_of, word), has_payload(word), is_live(word) }
  end
end
return reply
