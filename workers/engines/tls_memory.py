"""What this process remembers of TLS that failed.

Gives    TlsMemory: `broken`, `note_broken` (a host's TLS, or its certificate); `unmet`,
         `note_unmet` (what a domain demands and its hosts do not give)
Takes    the clock
Raises   nothing
Follows  RFC 7435: mail goes in clear rather than not at all, where nobody asked for more
"""

from __future__ import annotations

from collections.abc import Hashable

from mailcore.ports import Clock, TransportError

BROKEN_S = 3600.0
# One look a minute at hosts that fail a demand: the others of the queue wait for its result.
UNMET_S = 60.0
MOST_KEPT = 10_000


class TlsMemory:
    """Used on the engine's loop only."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._broken: dict[Hashable, tuple[float, str]] = {}
        self._unmet: dict[Hashable, tuple[float, TransportError]] = {}

    def broken(self, what: Hashable) -> str:
        """Return the RFC 8460 word for what failed with this within the hour, "" if nothing did."""
        until, result = self._broken.get(what, (0.0, ""))
        return result if until > self._clock.monotonic() else ""

    def note_broken(self, what: Hashable, result: str) -> None:
        """Remember a failure."""
        now = self._clock.monotonic()
        if len(self._broken) >= MOST_KEPT:
            self._broken = {key: each for key, each in self._broken.items() if each[0] > now}
        self._broken[what] = (now + BROKEN_S, result)

    def unmet(self, demand: Hashable) -> TransportError | None:
        """Return what came of this demand within the last minute, if it was not met."""
        until, error = self._unmet.get(demand, (0.0, None))
        return error if until > self._clock.monotonic() else None

    def note_unmet(self, demand: Hashable, error: TransportError) -> None:
        """Remember that no host met a demand."""
        now = self._clock.monotonic()
        if len(self._unmet) >= MOST_KEPT:
            self._unmet = {key: each for key, each in self._unmet.items() if each[0] > now}
        self._unmet[demand] = (now + UNMET_S, error)
