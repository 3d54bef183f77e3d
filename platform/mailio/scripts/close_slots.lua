-- KEYS  slots of a class
-- ARGV  slot ids ...
for index = 1, #ARGV do
  redis.call('ZREM', KEYS[1], ARGV[index])
end
return 0
