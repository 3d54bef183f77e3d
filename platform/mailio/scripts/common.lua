-- Put before every script: the server's clock, and the pause after the store was emptied.
local clock = redis.call('TIME')
local now_us = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local now_ms = math.floor(now_us / 1000)

local function whole(number)
  return string.format('%.0f', number)
end

-- Milliseconds for which nothing may be granted. A missing mark means that the store knows of no
-- slot although connections may be open: holders get one lifetime to register again.
local function closed_ms(mark, grace_ms)
  local opens = tonumber(redis.call('GET', mark) or '')
  if not opens or opens - now_ms > grace_ms then
    opens = now_ms + grace_ms
    redis.call('SET', mark, whole(opens))
  end
  return math.max(0, opens - now_ms)
end
