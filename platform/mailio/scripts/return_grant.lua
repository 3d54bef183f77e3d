-- KEYS  stream
-- ARGV  end of the grant us, us to give back
-- Only the last schedule of a stream can be shortened: later ones stand where they stand.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
local ends = math.max(now_us, math.ceil(tonumber(ARGV[1]) - tonumber(ARGV[2])))
redis.call('SET', KEYS[1], whole(ends), 'PX', math.ceil((ends - now_us) / 1000) + 1000)
return 1
