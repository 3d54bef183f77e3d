"""The one now(): the database's time, told from this machine's monotonic clock.

Gives    LedgerClock, which implements mailcore.ports.Clock
Takes    observations of the database's clock: where ours stood before and after it was read
Raises   nothing; until the first observation it tells this machine's own time

An observation is as good as its round trip is short: the truth lies somewhere inside it. The best
of the last few counts, so one slow answer does not move the clock. Between observations time is
carried by the monotonic clock, so that a step of the machine's clock changes nothing.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

_KEPT = 8
# Quartz drifts: an older observation says less than a slower one of today.
_MAX_AGE_S = 300.0


class LedgerClock:
    """Time as the ledger sees it. Thread-safe."""

    def __init__(
        self,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._seen: deque[tuple[float, float, float]] = deque(maxlen=_KEPT)
        self._offset = wall() - monotonic()

    def now(self) -> datetime:
        """Return aware UTC, corrected to the database's clock."""
        return datetime.fromtimestamp(self._offset + self._monotonic(), UTC)

    def now_ms(self) -> int:
        """Return the same as milliseconds since 1970, as events carry it."""
        return int((self._offset + self._monotonic()) * 1000)

    def monotonic(self) -> float:
        """Return seconds that never jump."""
        return self._monotonic()

    @property
    def is_observed(self) -> bool:
        """Whether the database was asked yet."""
        return bool(self._seen)

    def observe(self, *, before: float, database: float, after: float) -> None:
        """Learn that the database's clock read `database` between two monotonic instants."""
        with self._lock:
            self._seen.append((after - before, after, database - (before + after) / 2))
            fresh = [s for s in self._seen if after - s[1] <= _MAX_AGE_S]
            self._offset = min(fresh)[2]

    def refresh(self, read: Callable[[], float], *, samples: int = 3) -> None:
        """Ask the database a few times; `read` returns its clock in seconds since 1970."""
        for _ in range(samples):
            before = self._monotonic()
            database = read()
            self.observe(before=before, database=database, after=self._monotonic())
