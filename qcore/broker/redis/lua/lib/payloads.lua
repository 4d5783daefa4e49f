-- likely: how many jobs to look at when `room` bytes fit, if all are as large as the oldest one;
-- payloads that do not fit would be read for nothing, and by each claim again.
local function likely(list, jobs, most, room)
  local oldest = redis.call('LINDEX', list, 0)
  local size = oldest and redis.call('HSTRLEN', jobs, oldest) or 0
  return size == 0 and most or math.min(most, math.floor(room / size) + 1)
end

-- So many payloads are read at once: the oldest may be small and the others as large as they can be,
-- and what does not fit is read for nothing.
local PART = 16

-- fitting: reads the payloads that fit into `room` bytes, at least one; the other ids go back to the
-- head. Returns the payloads, and the room that is left.
local function fitting(list, jobs, ids, room)
  local payloads, fit = {}, 0
  while fit < #ids and (room > 0 or fit == 0) do
    local part = redis.call('HMGET', jobs, unpack(ids, fit + 1, math.min(fit + PART, #ids)))
    for i = 1, #part do
      room = room - #(part[i] or '')
      if room < 0 and fit > 0 then break end
      fit = fit + 1
      payloads[fit] = part[i]
    end
  end
  local rest = {}
  for i = #ids, fit + 1, -1 do rest[#rest + 1], ids[i] = ids[i], nil end
  if #rest > 0 then redis.call('LPUSH', list, unpack(rest)) end
  return payloads, room
end
