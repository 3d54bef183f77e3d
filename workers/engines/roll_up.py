"""Compute roll-ups again.

Gives    roll_up
Takes    minutes (Unix time // 60) that were touched, the statistics
Raises   StoreUnavailable; what was done before it may be done again
Follows  design.md section 3 step 8: recomputed from distinct events, never incremented
"""

from __future__ import annotations

from collections.abc import Iterable

from mailcore.ports import Statistics

MINUTES_AT_ONCE = 60


def roll_up(minutes: Iterable[int], statistics: Statistics) -> int:
    """Recompute the minutes, the newest first: that is where people look. Return how many."""
    wanted = sorted(set(minutes), reverse=True)
    for start in range(0, len(wanted), MINUTES_AT_ONCE):
        statistics.recompute(wanted[start : start + MINUTES_AT_ONCE])
    return len(wanted)
