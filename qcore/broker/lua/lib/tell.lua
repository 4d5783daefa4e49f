-- tell: publishes that jobs have ended, where somebody waits for them. A user without the right to
-- publish must not stop the script half way.
local function tell(waiters, ids, status)
  if #ids == 0 or redis.call('EXISTS', waiters) == 0 then return end
  local channels = redis.call('HMGET', waiters, unpack(ids))
  for i, id in ipairs(ids) do
    if channels[i] then
      redis.pcall('PUBLISH', channels[i], id .. ' ' .. status)
      redis.call('HDEL', waiters, id)
    end
  end
end
