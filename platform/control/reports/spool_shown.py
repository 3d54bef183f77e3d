"""Spools as the page shows them: sizes in words, the disk of two days as a picture.

Gives    shown -> the context of the page; disk_chart; octets; STATE_WORDS
Takes    what control.reports.spool read
Raises   nothing
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from control.reports.charts import Segment, bar, tag, title
from control.reports.scales import duration, grouped, percent
from control.reports.spool import HistoryPoint, SpoolNode
from mailcore.spool import HOUR_S, DiskState, Doubt, Keeper

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

AHEAD_HOURS = 24.0
_WIDTH, _HEIGHT = 1000.0, 120.0
_STEP_S = 1800.0

KEEPERS: Mapping[str, tuple[str, StrOrPromise]] = {
    Keeper.ROWS.value: ("k-keeps-rows", gettext_lazy("mail that still has to be sent")),
    Keeper.UNDO.value: ("k-keeps-undo", gettext_lazy("purged mail that can be brought back")),
    Keeper.RETENTION.value: ("k-keeps-retention", gettext_lazy("the node's spool cleaner timeout")),
    Keeper.GRACE.value: ("k-keeps-grace", gettext_lazy("the grace time after writing")),
    Keeper.OPEN.value: ("k-keeps-open", gettext_lazy("a process still writes to it")),
    Keeper.NOBODY.value: ("k-keeps-nobody", gettext_lazy("nothing: the next sweep deletes it")),
}
STATE_WORDS: Mapping[DiskState, StrOrPromise] = {
    DiskState.STOPPED: gettext_lazy("The disk is full: nothing is accepted."),
    DiskState.LOW: gettext_lazy("The disk has less free than its warning threshold."),
    DiskState.FILLING: gettext_lazy("The disk will be full in less than a day."),
}
DOUBTS: Mapping[str, StrOrPromise] = {
    Doubt.OTHERS.value: gettext_lazy(
        "the directory is marked by another installation, or the database is another one's."
    ),
    Doubt.REWOUND.value: gettext_lazy(
        "the database is older than the directory's last sweep, as after a restored backup."
    ),
    Doubt.UNMARKED.value: gettext_lazy("no file can be written into the directory."),
}


def octets(number: float) -> str:
    """Return a size in its largest unit, as disks are measured: 1 GB is 2^30 octets."""
    for power, unit in ((40, "TB"), (30, "GB"), (20, "MB"), (10, "kB")):
        if abs(number) >= 2**power:
            value = number / 2**power
            text = f"{value:.1f}" if abs(value) < 10 else f"{value:.0f}"
            return f"{text.removesuffix('.0')} {unit}"
    return f"{number:.0f} B"


def shown(
    nodes: Sequence[SpoolNode],
    points: Mapping[str, Sequence[HistoryPoint]],
    *,
    now: datetime,
) -> list[dict[str, Any]]:
    """Return each node as the template wants it."""
    return [_node(node, points.get(node.node, ()), now) for node in nodes]


def _node(node: SpoolNode, points: Sequence[HistoryPoint], now: datetime) -> dict[str, Any]:
    is_stale = node.is_stale(now)
    return {
        "name": node.node,
        "warning": "" if is_stale else STATE_WORDS.get(node.state, ""),
        "is_stale": is_stale,
        "doubt": DOUBTS.get(node.doubt, node.doubt),
        "measured_at": node.measured_at,
        "swept_at": node.swept_at,
        "free": octets(node.free_bytes),
        "free_share": percent(node.free_bytes, node.total_bytes),
        "total": octets(node.total_bytes),
        "inodes": grouped(node.free_inodes) if node.total_inodes else "",
        "stop": octets(node.stop_bytes),
        "growth": _growth(node),
        "left": _left(node),
        "chart": disk_chart(node, points),
        "segments": grouped(node.segments),
        "size": octets(node.size_bytes),
        "live": octets(node.live_bytes),
        "live_share": percent(node.live_bytes, node.size_bytes),
        "retention": duration(node.retention_s * 1000) if node.retention_s else "",
        "oldest_at": node.oldest_at,
        "oldest_keeper": KEEPERS.get(node.oldest_keeper, ("", node.oldest_keeper))[1],
        "kept": _kept(node),
        "deleted": grouped(node.deleted),
        "deleted_size": octets(node.deleted_bytes),
        "compacted": grouped(node.compacted),
        "copied_size": octets(node.copied_bytes),
        "moved": grouped(node.moved_rows),
        "deleted_all": grouped(node.deleted_all),
        "deleted_size_all": octets(node.deleted_bytes_all),
        "compacted_all": grouped(node.compacted_all),
        "foreign": node.foreign_count,
        "foreign_names": node.foreign_names,
        "foreign_more": max(0, node.foreign_count - len(node.foreign_names)),
        "unreadable": node.unreadable,
    }


def _growth(node: SpoolNode) -> str:
    if node.growth is None:
        return ""
    hourly = octets(abs(node.growth) * HOUR_S)
    # Less than a megabyte an hour is no movement worth a word.
    if abs(node.growth) * HOUR_S < 2**20:
        return _("steady")
    words = _("fills by %s an hour") if node.growth > 0 else _("empties by %s an hour")
    return words % hourly


def _left(node: SpoolNode) -> str:
    if node.growth is None:
        return _("not known yet")
    if node.hours_left is None:
        return _("not in sight")
    return duration(node.hours_left * HOUR_S * 1000)


def _kept(node: SpoolNode) -> list[dict[str, Any]]:
    """Return what keeps the segments, the most of it first."""
    rows = []
    for keeper, (count, size_bytes) in sorted(node.kept.items(), key=lambda one: -one[1][1]):
        kind, words = KEEPERS.get(keeper, ("volume", keeper))
        part = Segment(kind.removeprefix("k-"), str(words), size_bytes)
        rows.append(
            {
                "words": words,
                "count": grouped(count),
                "size": octets(size_bytes),
                "bar": bar(str(words), [part], node.size_bytes, height=8),
            }
        )
    return rows


# --- the picture ----------------------------------------------------------------------------------


def disk_chart(node: SpoolNode, points: Sequence[HistoryPoint]) -> str:
    """Return what was free in the last day, and the line of the last hour for the next."""
    if not points:
        return ""
    ahead = _ahead(node)
    top = max([1.0, node.stop_bytes * 1.5, *(p.free_bytes for p in points), *(y for _, y in ahead)])
    past = [(_x(-p.age_s), _y(p.free_bytes, top)) for p in points]
    past.append((_x(0.0), _y(node.free_bytes, top)))
    area = [(past[0][0], _HEIGHT), *past, (past[-1][0], _HEIGHT)]
    future = [(_x(at_s), _y(free, top)) for at_s, free in ahead]
    stop = _y(node.stop_bytes, top)
    about = _("%(most)s at the top; nothing is accepted below %(stop)s") % {
        "most": octets(top),
        "stop": octets(node.stop_bytes),
    }
    layers = [
        tag("desc", escape(about)),
        tag("polygon", points=_points(area), class_="area"),
        tag("polyline", points=_points(past), class_="past", vector_effect="non-scaling-stroke"),
        tag(
            "line",
            x1=0.0,
            x2=_WIDTH,
            y1=stop,
            y2=stop,
            class_="stop",
            vector_effect="non-scaling-stroke",
        ),
        tag(
            "line",
            x1=_WIDTH / 2,
            x2=_WIDTH / 2,
            y1=0.0,
            y2=_HEIGHT,
            class_="now",
            vector_effect="non-scaling-stroke",
        ),
    ]
    if future:
        drawn = _points(future)
        layers.append(
            tag("polyline", points=drawn, class_="future", vector_effect="non-scaling-stroke")
        )
    layers += [_hit(point) for point in points]
    return tag(
        "svg",
        *layers,
        class_="disk",
        width="100%",
        height=_HEIGHT,
        viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}",
        preserveAspectRatio="none",
        role="img",
        aria_label=_("Free space on %s, yesterday to tomorrow") % node.node,
    )


def _ahead(node: SpoolNode) -> list[tuple[float, float]]:
    """Return now and the end of the forecast: seconds from now, octets free."""
    if node.growth is None:
        return []
    hours = AHEAD_HOURS
    if node.growth > 0:
        hours = min(hours, node.free_bytes / node.growth / HOUR_S)
    free = node.free_bytes - node.growth * hours * HOUR_S
    return [(0.0, float(node.free_bytes)), (hours * HOUR_S, min(free, float(node.total_bytes)))]


def _hit(point: HistoryPoint) -> str:
    words = _("%(ago)s ago: %(free)s free") % {
        "ago": duration(point.age_s * 1000),
        "free": octets(point.free_bytes),
    }
    width = _WIDTH * _STEP_S / (2 * AHEAD_HOURS * HOUR_S)
    x = _x(-point.age_s)
    return tag("rect", title(words), class_="hit", x=x, y=0.0, width=width, height=_HEIGHT)


def _x(at_s: float) -> float:
    """Return the place of a time; now is the middle."""
    return max(0.0, _WIDTH * (0.5 + at_s / (2 * AHEAD_HOURS * HOUR_S)))


def _y(free_bytes: float, top: float) -> float:
    return _HEIGHT * (1 - max(0.0, free_bytes) / top)


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
