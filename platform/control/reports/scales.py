"""From numbers to places and words: ticks with steps people count in, and short figures.

Gives    count_ticks, column_step, time_ticks, duration_ticks; compact, grouped, percent, duration,
         span
Takes    numbers; aware datetimes in UTC
Raises   nothing
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
MOST_COLUMNS = 100
_COLUMN_STEPS = (
    *(n * MINUTE for n in (1, 2, 5, 10, 15, 30)),
    *(n * HOUR for n in (1, 2, 3, 6, 12)),
    DAY,
)
_TICK_STEPS = (*_COLUMN_STEPS, *(n * DAY for n in (2, 7, 14, 28)))
_SECOND, _MINUTE, _HOUR, _DAY = 1_000, 60_000, 3_600_000, 86_400_000
_DURATIONS = (
    *(1, 10, 100, _SECOND, 10 * _SECOND, _MINUTE, 10 * _MINUTE, _HOUR, 6 * _HOUR),
    *(_DAY, 7 * _DAY),
)
_BETWEEN = tuple(
    factor * size
    for size, factors in (
        *((size, (2, 5, 20, 50)) for size in (10, _SECOND)),
        (_MINUTE, (2, 5, 20, 30)),
        (_HOUR, (2, 12)),
    )
    for factor in factors
)
_FEW = 5
NO_FIGURE = "–"


@dataclass(frozen=True, slots=True)
class TimeTick:
    """A place on an axis of time. Minor ones go first where there is little room."""

    at: datetime
    label: str
    is_minor: bool


def count_ticks(top: int, wanted: int = 4) -> Sequence[int]:
    """Return whole numbers from 0 to at least `top`, in steps of 1, 2 or 5 times a power of ten."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if step * factor * wanted >= top:
                width = step * factor
                last = max(1, -(-top // width))
                return [width * n for n in range(last + 1)]
        step *= 10


def column_step(span: timedelta) -> timedelta:
    """Return the width of a column: the smallest human one that keeps columns to be told apart."""
    for step in _COLUMN_STEPS:
        if span <= step * MOST_COLUMNS:
            return step
    return DAY


def time_ticks(since: datetime, until: datetime, wanted: int = 8) -> Sequence[TimeTick]:
    """Return the ticks of an axis of time; midnight is told by its date."""
    span = until - since
    step = next((s for s in _TICK_STEPS if span <= s * wanted), _TICK_STEPS[-1])
    width = int(step.total_seconds())
    start = -(-int(since.timestamp()) // width) * width
    end = int(until.timestamp())
    ticks = [datetime.fromtimestamp(second, UTC) for second in range(start, end, width)]
    return [TimeTick(at, _moment(at, step), bool(n % 2)) for n, at in enumerate(ticks)]


def duration_ticks(lowest_ms: float, highest_ms: float) -> Sequence[tuple[float, str]]:
    """Return human durations within bounds, for a logarithmic axis."""
    found = [ms for ms in _DURATIONS if lowest_ms <= ms <= highest_ms]
    if len(found) < _FEW:
        found = [ms for ms in sorted({*_DURATIONS, *_BETWEEN}) if lowest_ms <= ms <= highest_ms]
    return [(float(ms), duration(ms)) for ms in found]


def _moment(at: datetime, step: timedelta) -> str:
    is_midnight = at.hour == at.minute == 0
    return f"{at.day} {at:%b}" if is_midnight or step >= DAY else f"{at:%H:%M}"


# --- words ----------------------------------------------------------------------------------------


def grouped(number: int) -> str:
    """Return a whole number with its thousands apart."""
    return f"{number:,}"


def compact(number: int) -> str:
    """Return a number in at most four figures and a letter."""
    for size, letter in ((1_000_000_000, "G"), (1_000_000, "M"), (10_000, "k")):
        if number >= size:
            shown = number / (1_000 if letter == "k" else size)
            return f"{shown:.1f}".removesuffix(".0") + letter
    return grouped(number)


def percent(part: int, whole: int) -> str:
    """Return a share; a small one never looks like none, nor a large one like all."""
    if whole <= 0:
        return NO_FIGURE
    share = 100 * part / whole
    if part == 0:
        return "0 %"
    if share < 0.01:
        return "< 0.01 %"
    if part < whole and share > 99.99:
        return "> 99.99 %"
    if share < 1 or (share > 99 and part < whole):
        return f"{share:.2f} %"
    return f"{share:.1f} %".replace(".0 %", " %")


def span(step: timedelta) -> str:
    """Return the width of a column in words."""
    return duration(step.total_seconds() * 1000)


def duration(ms: float | None) -> str:
    """Return a time in its largest unit, to two figures or more."""
    if ms is None:
        return NO_FIGURE
    for size, unit in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min"), (_SECOND, "s")):
        if ms >= size:
            value = ms / size
            text = f"{value:.1f}" if value < 10 else f"{value:.0f}"
            return f"{text.removesuffix('.0')} {unit}"
    return f"{ms:.0f} ms"
