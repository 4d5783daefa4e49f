-- id_of: the job id in a token `owner:seq:id`.
local function id_of(token) return string.match(token, '^[^:]*:[^:]*:(.*)$') end

-- split: which of `tokens` still stand in `active`, and which were lost. A variadic ZREM alone
-- would not say which one was missing.
local function split(active, tokens)
  local held, lost = {}, {}
  if #tokens == 0 then return held, lost end
  local scores = redis.call('ZMSCORE', active, unpack(tokens))
  for i, token in ipairs(tokens) do
    local side = scores[i] and held or lost
    side[#side + 1] = token
  end
  return held, lost
end
