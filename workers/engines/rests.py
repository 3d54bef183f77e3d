"""What this process remembers of paths and hosts that failed it, beyond the feeds.

Gives    Rests: `next_s`, `forgive` (paths); `is_tls_broken`, `note_broken_tls` (hosts)
Takes    the clock, the limits
Raises   nothing

A feed closes while its path rests, and the next rest must be longer all the same.
"""

from __future__ import annotations

from mailcore.bells import Path
from mailcore.ports import Clock
from workers.engines.context import Limits

BROKEN_TLS_S = 3600.0
MOST_DOUBLINGS = 20


class Rests:
    """Used on the engine's loop only."""

    def __init__(self, clock: Clock, limits: Limits) -> None:
        self._clock = clock
        self._limits = limits
        self._failures: dict[Path, int] = {}
        self._broken_tls: dict[str, float] = {}

    def next_s(self, path: Path) -> float:
        """Note a failure of a path; return how long it should rest, longer each time."""
        failures = min(self._failures.get(path, 0), MOST_DOUBLINGS)
        self._failures[path] = failures + 1
        return min(self._limits.cool_first_s * 2.0**failures, self._limits.cool_most_s)

    def forgive(self, path: Path) -> None:
        """A session was opened: the path starts anew."""
        self._failures.pop(path, None)

    def is_tls_broken(self, host: str) -> bool:
        """Whether STARTTLS with this host failed within the hour."""
        return self._broken_tls.get(host, -BROKEN_TLS_S) + BROKEN_TLS_S > self._clock.monotonic()

    def note_broken_tls(self, host: str) -> None:
        """Remember a failed handshake."""
        self._broken_tls[host] = self._clock.monotonic()
