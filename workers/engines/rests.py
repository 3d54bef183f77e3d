"""What this process remembers of paths that failed it, beyond the feeds.

Gives    Rests: `next_s`, `forgive`
Takes    the limits
Raises   nothing

A feed closes while its path rests, and the next rest must be longer all the same.
"""

from __future__ import annotations

from mailcore.bells import Path
from workers.engines.context import Limits

MOST_DOUBLINGS = 20


class Rests:
    """Used on the engine's loop only."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._failures: dict[Path, int] = {}

    def next_s(self, path: Path) -> float:
        """Note a failure of a path; return how long it should rest, longer each time."""
        failures = min(self._failures.get(path, 0), MOST_DOUBLINGS)
        self._failures[path] = failures + 1
        return min(self._limits.cool_first_s * 2.0**failures, self._limits.cool_most_s)

    def forgive(self, path: Path) -> None:
        """A session was opened: the path starts anew."""
        self._failures.pop(path, None)
