-- A job that has lost so many leases is quarantined; see ready_lists.
local QUARANTINED = 2

-- count_of: the lost leases in `count ms`; a count to which nothing was added for 72 h is forgotten.
local function count_of(text, now)
  local count, at = string.match(text or '', '^(%d+) (%d+)$')
  count, at = natural(count), natural(at)
  return count and at and now - at < 72 * 3600 * 1000 and count or 0
end
