"""Compute roll-ups again.

Gives    roll_up
Takes    the statistics, which know the minutes that were touched
Raises   StoreUnavailable; what was done before it may be done again
Follows  design.md section 3 step 8: recomputed from distinct events, never incremented
"""

from __future__ import annotations

from mailcore.ports import Statistics

MINUTES_AT_ONCE = 60
MINUTES_A_TURN = 240


def roll_up(statistics: Statistics) -> int:
    """Recompute the minutes that were touched, the newest first: that is where people look.

    Return how many; what is more than a turn takes stays touched.
    """
    wanted = sorted(statistics.touched(), reverse=True)[:MINUTES_A_TURN]
    for start in range(0, len(wanted), MINUTES_AT_ONCE):
        statistics.recompute(wanted[start : start + MINUTES_AT_ONCE])
    return len(wanted)
