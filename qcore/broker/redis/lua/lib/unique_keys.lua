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
