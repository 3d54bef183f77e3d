-- KEYS  counters
-- Each goes down by one, never below none.
for index = 1, #KEYS do
  local count = tonumber(redis.call('GET', KEYS[index]) or '') or 0
  if count > 1 then
    redis.call('SET', KEYS[index], whole(count - 1), 'KEEPTTL')
  else
    redis.call('DEL', KEYS[index])
  end
end
return 0
