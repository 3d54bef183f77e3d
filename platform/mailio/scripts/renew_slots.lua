-- KEYS  mark, slots of a class, wanted mark
-- ARGV  lifetime ms, slot ids ...
-- Gives 1 if somebody was refused a slot of this path lately. What is held is held: a slot that
-- had run out, or that an emptied store forgot, is registered again.
local lifetime = tonumber(ARGV[1])
closed_ms(KEYS[1], lifetime)
for index = 2, #ARGV do
  redis.call('ZADD', KEYS[2], now_ms + lifetime, ARGV[index])
end
redis.call('PEXPIRE', KEYS[2], lifetime * 2)
return redis.call('EXISTS', KEYS[3])
