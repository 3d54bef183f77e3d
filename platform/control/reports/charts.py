"""Charts as SVG text, pure: figures in, markup out.

Gives    Series, StackedTime, stacked_columns; histogram, time_range; Segment, bar; swatch
Takes    numbers and words; every word is escaped here
Raises   ValueError for series that are not as long as their axis

Places along the width are percentages and letters are never scaled: a chart is as sharp on a phone
as on a wall. Colours are classes (`k-<kind>`) that the style sheet gives to either theme; there is
no style attribute and no script, so that a strict Content-Security-Policy holds. The browser shows
each `<title>` as a tooltip; hit areas over whole columns make them easy to meet.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape

from control.reports.scales import (
    compact,
    count_ticks,
    duration,
    duration_ticks,
    grouped,
    percent,
    time_ticks,
)
from mailcore.stats import BUCKETS_PER_DOUBLING, quantile

PLOT_TOP = 14.0
PLOT_HEIGHT = 220.0
AXIS_ROOM = 26.0
GUTTER = 46
GAP_SHARE = 0.14
BAR_HEIGHT = 16
QUANTILES = ((0.5, "half"), (0.95, "95 %"), (0.99, "99 %"))


def tag(name: str, *children: str, **attributes: object) -> str:
    """Return an element; attributes that are None are left out, `_` stands for `-`."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = "".join(children)
    return f"<{name}{given}>{inner}</{name}>" if inner else f"<{name}{given}/>"


def title(text: str) -> str:
    """Return the tooltip of the element it stands in."""
    return tag("title", escape(text))


def swatch(kind: str) -> str:
    """Return the square that leads from a word to its colour."""
    square = tag("rect", width=10, height=10, rx=2, class_=f"k-{kind}")
    return tag("svg", square, class_="swatch", width=10, height=10, aria_hidden="true")


def _text(value: object) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _percent(share: float) -> str:
    return f"{_text(share * 100)}%"


# --- the frame ------------------------------------------------------------------------------------


def _y(value: float, top: float) -> float:
    return PLOT_TOP + PLOT_HEIGHT * (1 - value / top)


def _frame(name: str, description: str, ticks: Sequence[int], *layers: str) -> str:
    """Return the vertical axis and, beside it, the plot with its lines."""
    top = ticks[-1]
    height = PLOT_TOP + PLOT_HEIGHT + AXIS_ROOM
    numbers = [
        tag("text", compact(tick), x=GUTTER - 8, y=_y(tick, top) + 4, text_anchor="end")
        for tick in ticks
    ]
    lines = [
        tag(
            "line",
            x1="0%",
            x2="100%",
            y1=_y(tick, top),
            y2=_y(tick, top),
            class_="base" if tick == 0 else "grid",
        )
        for tick in ticks
    ]
    axis = tag("svg", *numbers, class_="axis", width=GUTTER, height=height, aria_hidden="true")
    about = tag("desc", escape(description))
    plot = tag(
        "svg",
        about,
        *lines,
        *layers,
        class_="plot",
        width="100%",
        height=height,
        role="img",
        aria_label=name,
    )
    return f'<div class="chart">{axis}{plot}</div>'


def _tick(at: float, label: str, *, is_minor: bool = False) -> str:
    """Return a word under the axis; at the very edge it would be cut."""
    foot = PLOT_TOP + PLOT_HEIGHT
    kind = "tick minor" if is_minor else "tick"
    x = _percent(at)
    mark = tag("line", x1=x, x2=x, y1=foot, y2=foot + 4, class_="mark")
    word = tag("text", escape(label), x=x, y=foot + 19, text_anchor="middle")
    return tag("g", mark, word, class_=kind)


# --- columns over time ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Series:
    """What one colour tells: `kind` names the class, the label is for people."""

    kind: str
    label: str
    values: Sequence[int]

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.values)


@dataclass(frozen=True, slots=True)
class StackedTime:
    """Series over columns of equal width in time; `line` is drawn over them."""

    name: str
    since: datetime
    step: timedelta
    stack: Sequence[Series]
    line: Series | None = None

    @property
    def length(self) -> int:
        """How many columns there are."""
        return max((len(one.values) for one in self._all), default=0)

    @property
    def until(self) -> datetime:
        """Where the last column ends."""
        return self.since + self.step * self.length

    @property
    def _all(self) -> Sequence[Series]:
        return [*self.stack, *([self.line] if self.line else [])]

    def check(self) -> None:
        """Refuse series that do not fit the axis."""
        for one in self._all:
            if len(one.values) != self.length:
                raise ValueError(f"{one.label}: {len(one.values)} values, not {self.length}")

    def top(self) -> int:
        """Return the highest thing to be shown."""
        heights = [sum(one.values[n] for one in self.stack) for n in range(self.length)]
        return max([1, *heights, *(self.line.values if self.line else [])])

    def says(self, column: int) -> str:
        """Return the tooltip of a column."""
        start = self.since + self.step * column
        end = start + self.step
        is_day = self.step >= timedelta(days=1)
        when = f"{start:%d %b %Y}" if is_day else f"{start:%d %b %H:%M} – {end:%H:%M} UTC"
        shown = [one for one in reversed(self._all) if one.values[column]]
        figures = [f"{one.label}: {grouped(one.values[column])}" for one in shown]
        return "\n".join([when, *(figures or ["nothing"])])


def stacked_columns(chart: StackedTime) -> str:
    """Return stacked columns over time, one line over them, an axis in human steps."""
    chart.check()
    ticks = count_ticks(chart.top())
    span = chart.until - chart.since
    words = [
        _tick((one.at - chart.since) / span, one.label, is_minor=one.is_minor)
        for one in time_ticks(chart.since, chart.until)
    ]
    totals = ", ".join(f"{one.label} {grouped(one.total)}" for one in chart.stack if one.total)
    about = f"From {chart.since:%d %b %H:%M} to {chart.until:%d %b %H:%M} UTC: {totals}"
    layers = [*words, *_columns(chart, ticks[-1]), _line(chart, ticks[-1]), *_hits(chart)]
    return _frame(chart.name, about, ticks, *layers)


def _columns(chart: StackedTime, top: int) -> Iterator[str]:
    band = 1 / chart.length
    for series_no, one in enumerate(chart.stack):
        below = chart.stack[:series_no]
        columns = [
            tag(
                "rect",
                x=_percent((n + GAP_SHARE / 2) * band),
                y=_y(sum(other.values[n] for other in below) + value, top),
                width=_percent(band * (1 - GAP_SHARE)),
                height=PLOT_HEIGHT * value / top,
            )
            for n, value in enumerate(one.values)
            if value
        ]
        if columns:
            yield tag("g", *columns, class_=f"k-{one.kind}")


def _line(chart: StackedTime, top: int) -> str:
    """Return the line in a picture of its own that is stretched; its stroke is not."""
    if chart.line is None or not chart.line.total:
        return ""
    points = " ".join(
        f"{_text((n + 0.5) * 1000 / chart.length)},{_text(PLOT_HEIGHT * (1 - value / top))}"
        for n, value in enumerate(chart.line.values)
    )
    drawn = [
        tag("polyline", points=points, class_=kind, vector_effect="non-scaling-stroke")
        for kind in ("halo", f"line k-{chart.line.kind}")
    ]
    return tag(
        "svg",
        *drawn,
        class_="stretched",
        y=PLOT_TOP,
        width="100%",
        height=PLOT_HEIGHT,
        viewBox=f"0 0 1000 {_text(PLOT_HEIGHT)}",
        preserveAspectRatio="none",
    )


def _hits(chart: StackedTime) -> Iterator[str]:
    for n in range(chart.length):
        yield tag(
            "rect",
            title(chart.says(n)),
            class_="hit",
            x=_percent(n / chart.length),
            y=PLOT_TOP,
            width=_percent(1 / chart.length),
            height=PLOT_HEIGHT,
        )


# --- how long it took -----------------------------------------------------------------------------


def histogram(name: str, buckets: Mapping[int, int]) -> str:
    """Return columns on a logarithmic axis of time, with the quantiles marked.

    Buckets are those of mailcore.stats, two of them to a column.
    """
    pairs: dict[int, int] = {}
    for bucket, count in buckets.items():
        pairs[bucket // 2] = pairs.get(bucket // 2, 0) + count
    first, last = min(pairs) - 1, max(pairs) + 2
    length = max(last - first, 12)
    ticks = count_ticks(max(pairs.values()))
    total = sum(pairs.values())

    def place(ms: float) -> float:
        return (math.log2(ms + 1) * BUCKETS_PER_DOUBLING / 2 - first) / length

    lowest, highest = _starts(first + 1), _starts(first + length - 1)
    words = [_tick(place(ms), label) for ms, label in duration_ticks(lowest, highest)]
    columns = []
    for pair, count in sorted(pairs.items()):
        told = f"{duration(_starts(pair))} – {duration(_starts(pair + 1))}"
        share = f"{grouped(count)} delivered, {percent(count, total)}"
        columns.append(
            tag(
                "rect",
                title(f"{told}\n{share}"),
                x=_percent((pair - first + GAP_SHARE / 2) / length),
                y=_y(count, ticks[-1]),
                width=_percent((1 - GAP_SHARE) / length),
                height=PLOT_HEIGHT * count / ticks[-1],
            )
        )
    times = [(quantile(buckets, level), word) for level, word in QUANTILES]
    about = ", ".join(f"{word} within {duration(ms)}" for ms, word in times)
    marks = [_quantile(place(ms), ms, word) for ms, word in times if ms is not None]
    bars = tag("g", *columns, class_="k-delivered")
    return _frame(name, about, ticks, *words, bars, *marks)


def _starts(pair: int) -> float:
    """Return the milliseconds at which a column of two buckets begins."""
    return float(2 ** (pair * 2 / BUCKETS_PER_DOUBLING)) - 1.0


def _quantile(at: float, ms: float, word: str) -> str:
    x = _percent(at)
    line = tag("line", x1=x, x2=x, y1=PLOT_TOP - 8, y2=PLOT_TOP + PLOT_HEIGHT, class_="quantile")
    dot = tag("circle", cx=x, cy=PLOT_TOP - 8, r=3, class_="quantile-dot")
    return tag("g", title(f"{word} were delivered within {duration(ms)}"), line, dot)


def time_range(name: str, buckets: Mapping[int, int], *, longest: float) -> str:
    """Return a bar from the time of the first half to that of 95 %, on a logarithmic axis."""
    half, most = (quantile(buckets, level) or 0.0 for level in (0.5, 0.95))
    start, end = (min(1.0, math.log2(ms + 1) / math.log2(longest + 2)) for ms in (half, most))
    told = f"half within {duration(half)}, 95 % within {duration(most)}"
    about = tag("desc", escape(told))
    span = tag(
        "rect",
        title(told),
        x=_percent(start),
        width=_percent(max(end - start, 0.004)),
        height=8,
        class_="k-delivered",
    )
    dot = tag("rect", x=_percent(start), width=3, height=8, class_="k-now")
    return tag(
        "svg", about, span, dot, class_="bar", width="100%", height=8, role="img", aria_label=name
    )


# --- bars in rows ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar: its colour, its word, its number."""

    kind: str
    label: str
    value: int


def bar(name: str, segments: Sequence[Segment], whole: int, *, height: int = BAR_HEIGHT) -> str:
    """Return a horizontal bar; `whole` is as long as it can get."""
    parts = []
    seen = 0
    for one in segments:
        if one.value <= 0 or whole <= 0:
            continue
        told = f"{one.label}: {grouped(one.value)} ({percent(one.value, whole)})"
        parts.append(
            tag(
                "rect",
                title(told),
                x=_percent(seen / whole),
                width=_percent(one.value / whole),
                height=height,
                class_=f"k-{one.kind}",
            )
        )
        seen += one.value
    told = ", ".join(f"{one.label} {grouped(one.value)}" for one in segments if one.value)
    return tag(
        "svg",
        tag("desc", escape(told or "nothing")),
        *parts,
        class_="bar",
        width="100%",
        height=height,
        role="img",
        aria_label=name,
    )
