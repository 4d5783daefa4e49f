-- check: a key of another type is an error here, by the command that counts its members, before the
-- first write: no script is undone when it fails.
local function check(count, ...)
  for _, key in ipairs({ ... }) do redis.call(count, key) end
end
