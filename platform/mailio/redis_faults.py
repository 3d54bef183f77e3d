"""What a Redis that is away, or goes away in the middle of a call, may raise.

Gives    REDIS_FAULTS
Follows  uvloop: writing to a transport that was closed meanwhile is a RuntimeError there, where
         asyncio's own loops say OSError or nothing
"""

from redis.exceptions import RedisError

REDIS_FAULTS: tuple[type[Exception], ...] = (RedisError, OSError, RuntimeError)
