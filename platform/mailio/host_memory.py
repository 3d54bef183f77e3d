"""What a node's processes remember of mail servers that failed them, in Redis.

Gives    RedisHostMemory, the port mailcore.ports.HostMemory
Takes    a Redis URL (Redis, Valkey, Kvrocks); the node; all time is the server's
Raises   nothing: with Redis away a process knows what itself has seen

    pf:hosts:<node>:dead:<source>|<address>    rests while it is there
    pf:hosts:<node>:fails:<source>|<address>   failures in a row, kept a while longer
    pf:hosts:<node>:tls:<host>                 STARTTLS failed of late

One look is one round trip, and there is one for each host a session is opened to, not for each
message. Everything runs out by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from mailcore.routing.hosts import BROKEN_TLS_S, FORGET_DEAD_S, KnownHosts, dead_for_s
from mailio.redis_faults import REDIS_FAULTS

ANSWER_TIMEOUT_S = 1.0
CONNECTIONS = 8
# What this process keeps of its own, for when Redis is away.
OWN_ENTRIES = 10_000

log = logging.getLogger(__name__)


class RedisHostMemory:
    """Used on one event loop."""

    def __init__(self, url: str, *, node: str, prefix: str = "pf") -> None:
        # It waits for a connection that is free: many hosts fail at once, and no other time.
        pool = BlockingConnectionPool.from_url(
            url,
            decode_responses=True,
            socket_timeout=ANSWER_TIMEOUT_S,
            socket_connect_timeout=ANSWER_TIMEOUT_S,
            max_connections=CONNECTIONS,
            timeout=ANSWER_TIMEOUT_S,
            retry=Retry(NoBackoff(), 1),
        )
        self._client = Redis.from_pool(pool)
        self._prefix = f"{prefix}:hosts:{node}"
        self._own: OrderedDict[str, tuple[float, str]] = OrderedDict()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def known(
        self, source: str, *, hosts: Sequence[str], addresses: Sequence[str]
    ) -> KnownHosts:
        """Return what is remembered of these hosts and addresses."""
        keys = [
            *(self._dead(source, address) for address in addresses),
            *(self._fails(source, address) for address in addresses),
            *(self._tls(host) for host in hosts),
        ]
        if not keys:
            return KnownHosts()
        values = await self._read(keys)
        count = len(addresses)
        failures = zip(addresses, values[count : 2 * count], strict=True)
        return KnownHosts(
            failures={address: int(value) for address, value in failures if value},
            dead=frozenset(a for a, value in zip(addresses, values[:count], strict=True) if value),
            broken_tls=frozenset(
                h for h, value in zip(hosts, values[2 * count :], strict=True) if value
            ),
        )

    async def note_dead(self, source: str, address: str, *, failures: int) -> None:
        """Remember that an address could not be reached, `failures` times in a row by now."""
        rest_s = dead_for_s(failures)
        await self._write(
            {
                self._dead(source, address): ("1", rest_s),
                self._fails(source, address): (str(failures), rest_s + FORGET_DEAD_S),
            }
        )

    async def note_alive(self, source: str, address: str) -> None:
        """Forget what was remembered of an address."""
        keys = (self._dead(source, address), self._fails(source, address))
        for key in keys:
            self._own.pop(key, None)
        try:
            await self._client.delete(*keys)
        except REDIS_FAULTS as exc:
            _left_undone(exc)

    async def note_broken_tls(self, host: str) -> None:
        """Remember that STARTTLS with a host failed."""
        await self._write({self._tls(host): ("1", BROKEN_TLS_S)})

    # ── the store ─────────────────────────────────────────────────────────────────────────────

    def _dead(self, source: str, address: str) -> str:
        return f"{self._prefix}:dead:{source}|{address}"

    def _fails(self, source: str, address: str) -> str:
        return f"{self._prefix}:fails:{source}|{address}"

    def _tls(self, host: str) -> str:
        return f"{self._prefix}:tls:{host}"

    async def _read(self, keys: Sequence[str]) -> list[str | None]:
        try:
            values = await self._client.mget(keys)
            return [None if value is None else str(value) for value in values]
        except REDIS_FAULTS as exc:
            _left_undone(exc)
        now = asyncio.get_running_loop().time()
        found = (self._own.get(key, (0.0, "")) for key in keys)
        return [value if until > now else None for until, value in found]

    async def _write(self, entries: dict[str, tuple[str, float]]) -> None:
        now = asyncio.get_running_loop().time()
        for key, (value, seconds) in entries.items():
            self._own[key] = (now + seconds, value)
            self._own.move_to_end(key)
        while len(self._own) > OWN_ENTRIES:
            self._own.popitem(last=False)
        try:
            async with self._client.pipeline(transaction=False) as pipe:
                for key, (value, seconds) in entries.items():
                    pipe.set(key, value, px=round(seconds * 1000))
                await pipe.execute()
        except REDIS_FAULTS as exc:
            _left_undone(exc)


def _left_undone(exc: BaseException) -> None:
    log.info("hosts not remembered together", extra={"reason": str(exc) or type(exc).__name__})
