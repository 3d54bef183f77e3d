"""The holds in force, as one process knows them; and telling the fleet that they changed.

Gives    HoldCache (the port mailcore.ports.HoldSource), announce
Takes    a libpq URL, a Redis URL for notices; who wants to be told of changes (`changed`)
Raises   StoreUnavailable from the first reading: a process that does not know what is held must
         not send. Later nothing: with PostgreSQL away what was read last stays in force
Follows  design.md section 6: announced by Redis and polled every 2 s

In force is what PostgreSQL says is in force: a hold that ends by itself ends by the database's
clock, and is gone here within a poll.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

import redis

from mailcore.holds import Hold, HoldSet
from mailcore.ports import StoreUnavailable
from mailio.ledger.holds import PgHolds
from mailio.notices import HOLD_CHANNEL, Listener

POLL_S = 2.0

log = logging.getLogger(__name__)


def announce(redis_url: str) -> bool:
    """Tell the fleet that holds changed, best effort: it polls as well. False if it failed."""
    try:
        with redis.Redis.from_url(
            redis_url, socket_timeout=1.0, socket_connect_timeout=1.0
        ) as client:
            client.publish(HOLD_CHANNEL, "changed")
    except redis.RedisError:
        return False
    return True


class HoldCache:
    """Holds one HoldSet. `current` is a plain read; the swap is one assignment."""

    def __init__(self, dsn: str, redis_url: str, *, poll_s: float = POLL_S) -> None:
        self._store = PgHolds(dsn)
        self._poll_s = poll_s
        self._known: Sequence[Hold] = []
        self._current = HoldSet()
        self._wanted = threading.Event()
        self._stopping = threading.Event()
        self.changed: Callable[[], object] = lambda: None
        try:
            self.refresh()
        except StoreUnavailable:
            self._store.close()
            raise
        self._listener = Listener(redis_url, HOLD_CHANNEL, lambda _: self._wanted.set())
        self._thread = threading.Thread(target=self._run, name="holds", daemon=True)
        self._thread.start()

    def current(self) -> HoldSet:
        """Return the holds in force; another object if and only if they have changed."""
        return self._current

    def refresh(self) -> None:
        """Read what is in force; StoreUnavailable leaves things as they were."""
        found = self._store.in_force()
        if found == self._known:
            return
        self._known = found
        self._current = HoldSet.of(found)
        log.info("holds changed", extra={"holds": len(found)})
        self.changed()

    def stop(self) -> None:
        """Follow no more."""
        self._stopping.set()
        self._wanted.set()
        self._listener.stop()
        self._thread.join(timeout=5)
        self._store.close()

    def _run(self) -> None:
        is_away = False
        while True:
            self._wanted.wait(self._poll_s)
            self._wanted.clear()
            if self._stopping.is_set():
                return
            try:
                self.refresh()
            except StoreUnavailable as exc:
                if not is_away:
                    log.warning("holds not read", extra={"store": exc.store, "reason": exc.reason})
                is_away = True
            else:
                is_away = False
