-- KEYS  counters
-- ARGV  lifetime ms
-- Each lives on; one that was lost with the store's memory counts the drain that asks.
for index = 1, #KEYS do
  if redis.call('PEXPIRE', KEYS[index], ARGV[1]) == 0 then
    redis.call('SET', KEYS[index], 1, 'PX', ARGV[1])
  end
end
return 0
