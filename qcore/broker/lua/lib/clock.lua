-- clock: unix ms on this Redis, read once per script; a test passes its own as `given`.
local function clock(given)
  if given ~= '' then return tonumber(given) end
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end

-- whole: a number as digits; Lua would write large ones as 1.7e+12.
local function whole(n) return string.format('%.0f', n) end
