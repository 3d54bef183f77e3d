-- KEYS  mark, streams, the preferred first
-- ARGV  lifetime ms, wanted, horizon us, spacing us of each stream
-- Gives {count, us until the first, number of the stream, end of the schedule us}.
-- Each stream holds the time at which its next message may go; idle time earns nothing, so there
-- is never a burst. A schedule reaches at most one horizon ahead, unless it is a single message.
local closed = closed_ms(KEYS[1], tonumber(ARGV[1]))
if closed > 0 then
  return {0, whole(closed * 1000), 0, ''}
end
local horizon = tonumber(ARGV[3])
local start, stream, spacing
for index = 2, #KEYS do
  local own_spacing = tonumber(ARGV[index + 2])
  local next_us = tonumber(redis.call('GET', KEYS[index]) or '') or now_us
  -- No schedule reaches further: beyond this the clock was set back, or the rate was raised.
  next_us = math.min(next_us, now_us + horizon + math.max(horizon, own_spacing))
  next_us = math.max(next_us, now_us)
  if not start or next_us < start then
    start, stream, spacing = next_us, index - 1, own_spacing
  end
end
local ahead = start - now_us
if ahead > horizon then
  return {0, whole(ahead - horizon), 0, ''}
end
local count = math.min(tonumber(ARGV[2]), math.max(1, math.floor(horizon / spacing)))
local ends = math.ceil(start + count * spacing)
redis.call('SET', KEYS[stream + 1], whole(ends), 'PX', math.ceil((ends - now_us) / 1000) + 1000)
return {count, whole(ahead), stream, whole(ends)}
