-- KEYS  counters
-- ARGV  lifetime ms, wanted of each
-- Gives the numbers of the counters that were below what is wanted; they are one higher now.
local taken = {}
for index = 1, #KEYS do
  local count = tonumber(redis.call('GET', KEYS[index]) or '') or 0
  if count < tonumber(ARGV[index + 1]) then
    redis.call('SET', KEYS[index], whole(count + 1), 'PX', ARGV[1])
    taken[#taken + 1] = index
  end
end
return taken
