"""When an alert begins, is told again, and is over.

Gives    Reading; Step; next_step, a decision without I/O
Follows  design.md section 1 (nothing wrong without a word); two thresholds, so that a figure which
         stays at one of them does not ring for ever
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from control.notify.choices import AlertState


@dataclass(frozen=True, slots=True)
class Reading:
    """How one thing that is watched stands. `value` None: it is wrong, and the threshold says for
    how many seconds it may be."""

    subject: str
    about: str
    value: float | None
    detail: str = ""
    account_id: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a rule: where an alert begins and ends, and when to remind of it (zero: never). With
    `is_floor` less is worse."""

    threshold: float
    clear_ratio: float
    remind_after: timedelta
    is_floor: bool = False

    def is_broken(self, value: float, *, is_raised: bool) -> bool:
        """Whether a figure is wrong; that of an open alert must get well away to be right."""
        ratio = self.clear_ratio if is_raised else 1.0
        if self.is_floor:
            return value <= self.threshold / ratio
        return value >= self.threshold * ratio


@dataclass(frozen=True, slots=True)
class Stand:
    """Of an alert that is not over: its state, since when, and when it was last told."""

    state: str
    since: datetime
    told_at: datetime | None


class Step(Enum):
    """What follows."""

    NOTHING = "nothing"
    WATCH = "watch"  # wrong, but not for long enough: note since when
    RAISE = "raise"
    KEEP = "keep"
    REMIND = "remind"
    CLEAR = "clear"
    FORGET = "forget"  # it was wrong for a moment, and nobody was told


def next_step(
    limits: Limits, reading: Reading | None, stand: Stand | None, *, now: datetime
) -> Step:
    """Return what follows from a reading and from how things stood before."""
    is_raised = stand is not None and stand.state == AlertState.RAISED
    since = now if stand is None else stand.since
    if reading is None:
        is_wrong = is_ripe = False
    elif reading.value is None:
        is_wrong = True
        is_ripe = (now - since).total_seconds() >= limits.threshold
    else:
        is_wrong = is_ripe = limits.is_broken(reading.value, is_raised=is_raised)
    if is_raised and stand is not None:
        if not is_wrong:
            return Step.CLEAR
        told_at = stand.told_at or stand.since
        is_due = bool(limits.remind_after) and now - told_at >= limits.remind_after
        return Step.REMIND if is_due else Step.KEEP
    if is_ripe:
        return Step.RAISE
    if is_wrong:
        return Step.WATCH
    return Step.NOTHING if stand is None else Step.FORGET
