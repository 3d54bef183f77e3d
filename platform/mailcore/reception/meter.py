"""Who does something too often.

Gives    Meter: counts by key in windows of fixed length
Takes    the time, from any clock that does not jump
Raises   nothing

A window begins with the first count of its key, so nobody can have more than twice the limit in
any stretch of that length.
"""

from __future__ import annotations

from collections.abc import Hashable

_MOST_KEYS = 100_000


class Meter:
    """At most `limit` counts of a key in `window_s`; a limit of 0 is none."""

    def __init__(self, limit: int, window_s: float) -> None:
        self._limit = limit
        self._window_s = window_s
        self._counts: dict[Hashable, tuple[float, int]] = {}

    def count(self, key: Hashable, now: float) -> bool:
        """Count one; return whether it is within the limit."""
        if not self._limit:
            return True
        began, count = self._current(key, now)
        if count >= self._limit:
            return False
        if key not in self._counts and len(self._counts) >= _MOST_KEYS:
            self._counts = {k: v for k, v in self._counts.items() if now - v[0] < self._window_s}
            if len(self._counts) >= _MOST_KEYS:
                self._counts.clear()
        self._counts[key] = (began, count + 1)
        return True

    def is_spent(self, key: Hashable, now: float) -> bool:
        """Whether another count would be beyond the limit."""
        return bool(self._limit) and self._current(key, now)[1] >= self._limit

    def _current(self, key: Hashable, now: float) -> tuple[float, int]:
        began, count = self._counts.get(key, (now, 0))
        return (now, 0) if now - began >= self._window_s else (began, count)
