-- store: writes those jobs of the arguments, from `items` on, whose ids are new. Returns by place what
-- an id that was there stands for.
-- The first write fails where `jobs` is of another type, and may allocate, so that a full Redis
-- refuses the whole call here.
local function store(jobs, items, stamp)
  if #ARGV == items + 2 then
    if redis.call('HSETNX', jobs, ARGV[items], stamp .. ARGV[items + 2]) == 1 then return {} end
    return { [items] = redis.call('HGET', jobs, ARGV[items]) }
  end
  local ids, words, before, stored = {}, {}, {}, {}
  for i = items, #ARGV, 3 do ids[#ids + 1] = ARGV[i] end
  local found = redis.call('HMGET', jobs, unpack(ids))
  for n, id in ipairs(ids) do
    local i = items + 3 * (n - 1)
    before[i] = found[n] or stored[id]
    if not before[i] then
      stored[id] = stamp .. ARGV[i + 2]
      words[#words + 1], words[#words + 2] = id, stored[id]
    end
  end
  if #words > 0 then redis.call('HSET', jobs, unpack(words)) end
  return before
end
