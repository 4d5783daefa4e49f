-- pick: takes at most `most` ids from the head of ready. A job that has lost two leases is a
-- suspect: it may be the one that kills its process, so at most `suspects` of them are taken and
-- the others go back to the head, or to the tail if they fill it. Looks at 500 ids or a few more.
-- Returns the ids, how many went back, and how many suspects may still be taken.
local function pick(ready, crashes, most, suspects)
  if redis.call('EXISTS', crashes) == 0 then
    return redis.call('LPOP', ready, most) or {}, 0, suspects
  end
  local ids, back, seen = {}, {}, 0
  repeat
    local popped = redis.call('LPOP', ready, most - #ids) or {}
    local counts = #popped > 0 and redis.call('HMGET', crashes, unpack(popped)) or {}
    for i, id in ipairs(popped) do
      if tonumber(string.match(counts[i] or '0', '^%d+')) < 2 then
        ids[#ids + 1] = id
      elseif suspects > 0 then
        ids[#ids + 1] = id
        suspects = suspects - 1
      else
        back[#back + 1] = id
      end
    end
    seen = seen + #popped
  until #popped == 0 or #ids >= most or seen >= 500
  if seen >= 500 and #back > 0 then
    -- so many that they would stand in the way of every claim
    redis.call('RPUSH', ready, unpack(back))
  else
    for i = #back, 1, -1 do redis.call('LPUSH', ready, back[i]) end
  end
  return ids, #back, suspects
end
