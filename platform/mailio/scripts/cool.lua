-- KEYS  rest
-- ARGV  ms, reason
-- A path rests at least that long; a longer rest that was asked for before stands.
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[1])
end
return 0
