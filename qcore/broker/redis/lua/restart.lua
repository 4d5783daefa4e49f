-- restart: an order to supervisors, with a generation above that of every order before.
-- KEYS  control    hash  `restart:HOST:QUEUE` -> `generation exit`
-- ARGV  now_ms     ms    '' for the Redis clock
--       field      text  `restart:HOST:QUEUE`, each empty for all
--       exit       int   1: they are to end, 0: to replace their workers
--       old_ms     ms    orders older than this are dropped, and those that lie further ahead, which
--                        no clock has given
-- reply the generation
-- @include clock
local control = KEYS[1]
local now_ms, field, exit, old_ms = unpack(ARGV, 1, 4)

local now = clock(now_ms)
exit, old_ms = integer(exit), integer(old_ms)
local generation, void = now, {}
local orders = redis.call('HGETALL', control)
for i = 1, #orders, 2 do
  local given = string.match(orders[i], '^restart:') and string.match(orders[i + 1], '^(%d+) ')
  given = natural(given)
  if given and math.abs(now - given) > old_ms then void[#void + 1] = orders[i] end
  -- the generation of one that lies far ahead would be the last
  if given and given - now <= old_ms then generation = math.max(generation, given + 1) end
end
redis.call('HDEL', control, '')
for _, name in ipairs(void) do redis.call('HDEL', control, name) end
redis.call('HSET', control, field, whole(generation) .. ' ' .. exit)
return whole(generation)
