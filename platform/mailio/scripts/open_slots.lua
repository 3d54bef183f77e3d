-- KEYS  mark, slots of this class, slots of the other class, wanted mark
-- ARGV  lifetime ms, limit (0: none), limit of this class, slot ids ...
-- Gives how many of the ids were taken, the first ones.
local lifetime = tonumber(ARGV[1])
if closed_ms(KEYS[1], lifetime) > 0 then
  return 0
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now_ms)
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now_ms)
local free = #ARGV - 3
local limit = tonumber(ARGV[2])
if limit > 0 then
  local own = redis.call('ZCARD', KEYS[2])
  local others = redis.call('ZCARD', KEYS[3])
  free = math.max(0, math.min(free, limit - own - others, tonumber(ARGV[3]) - own))
end
for index = 1, free do
  redis.call('ZADD', KEYS[2], now_ms + lifetime, ARGV[3 + index])
end
if free > 0 then
  redis.call('PEXPIRE', KEYS[2], lifetime * 2)
else
  redis.call('SET', KEYS[4], '1', 'PX', math.ceil(lifetime / 2))
end
return free
