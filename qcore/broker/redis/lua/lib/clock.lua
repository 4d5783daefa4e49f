-- integer: a number of the arguments; everything is read before the first write, for no script is
-- undone when it fails.
local function integer(text)
  local n = string.find(text, '^-?%d+$') and tonumber(text)
  return n and math.abs(n) < math.huge and n or error('not an integer: ' .. text)
end

-- natural: a number that stands in a key; false for none, and for more than Lua counts exactly. Anybody
-- can write anything into Redis: what cannot be read counts as not there.
local function natural(text)
  local n = text and #text <= 16 and string.find(text, '^%d+$') and tonumber(text)
  return n and n <= 2 ^ 53 and n or false
end

-- bounded: how many at most; Lua hands a few thousand words to one command, and no more.
local function bounded(text) return math.max(0, math.min(integer(text), 1000)) end

-- clock: unix ms on this Redis, read once per script; a test passes its own as `given`.
local function clock(given)
  if given ~= '' then return integer(given) end
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end

-- whole: a number as digits; Lua would write large ones as 1.7e+12.
local function whole(n) return string.format('%.0f', n) end
