-- pause_end: until when a queue is paused by `until_ms since_ms reason`: math.huge for until it is
-- resumed; false when it is not paused, or no longer.
local function pause_end(pause, now)
  local till, since = string.match(pause or '', '^(%d+) (%d+) ')
  till = natural(since) and natural(till)
  if till == 0 then return math.huge end
  return till and till > now and till or false
end
