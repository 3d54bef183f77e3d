"""A report as the page shows it: charts drawn, figures in words, colours named.

Gives    shown -> the context of the fragment
Takes    a Report, the queue, who looks
Raises   nothing
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from control.reports import charts, scales
from control.reports.selectors import Headline, IspRow, Report
from control.reports.waiting import Waiting
from mailcore.events import EventKind
from mailcore.stats import quantile

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

MOST_ISPS = 10
MOST_TIMED = 5
# From the bottom of a column to its top: what went well first.
STACK: Mapping[str, StrOrPromise] = {
    EventKind.DELIVERED.value: gettext_lazy("delivered"),
    EventKind.DEFERRED.value: gettext_lazy("deferred"),
    EventKind.BOUNCED.value: gettext_lazy("bounced"),
    EventKind.LATE_BOUNCED.value: gettext_lazy("bounced late"),
    EventKind.EXPIRED.value: gettext_lazy("expired"),
    EventKind.STOPPED.value: gettext_lazy("stopped"),
    EventKind.PURGED.value: gettext_lazy("purged"),
    EventKind.UNKNOWN.value: gettext_lazy("outcome unknown"),
    EventKind.COMPLAINED.value: gettext_lazy("complained"),
    EventKind.UNSUBSCRIBED.value: gettext_lazy("unsubscribed"),
    EventKind.REPLIED.value: gettext_lazy("replied"),
    EventKind.REJECTED.value: gettext_lazy("rejected"),
}
ACCEPTED = gettext_lazy("accepted")
# Attempts that were put off end in another kind later; the rest is the fate of a recipient.
_FATES = (
    *(EventKind.DELIVERED, EventKind.BOUNCED, EventKind.EXPIRED, EventKind.STOPPED),
    EventKind.PURGED,
)
# The reference's thresholds, in percent, and the least number they are worth naming for.
WARN_HARD, WARN_COMPLAINTS, WORTH_A_WARNING = 1.0, 0.07, 1000


@dataclass(frozen=True, slots=True)
class Tile:
    """One headline figure: the last hour large, the last day beside it."""

    label: str
    figure: str
    beside: str
    note: str
    warning: str = ""


def shown(report: Report, waiting: Waiting | None) -> dict[str, Any]:
    """Return what the fragment's template shows."""
    return {
        "report": report,
        "tiles": _tiles(report, waiting),
        "outcomes": _outcomes(report),
        "isps": _isps(report.isps or ()),
        "more_isps": max(0, len(report.isps or ()) - MOST_ISPS),
        "fates": _fates(report.isps or ()),
        "times": _times(report),
        "replies": _replies(report),
        "waiting": waiting,
        "waits": _waits(waiting),
    }


# --- headline -------------------------------------------------------------------------------------


def _tiles(report: Report, waiting: Waiting | None) -> list[Tile]:
    tiles = []
    if report.hour is not None and report.day is not None:
        hour, day = report.hour, report.day
        tiles = [
            Tile(
                _("Accepted"),
                scales.compact(hour.accepted),
                scales.compact(day.accepted),
                _("recipients"),
            ),
            _share_tile(_("Delivered"), hour, day, "delivered"),
            _share_tile(_("Bounced"), hour, day, "bounced", _bounce_warning(hour)),
            Tile(
                _("Complaints"),
                scales.percent(hour.complained, hour.delivered),
                scales.percent(day.complained, day.delivered),
                _("%(count)s of delivered") % {"count": scales.compact(hour.complained)},
                _complaint_warning(hour),
            ),
        ]
    if waiting is not None:
        note = _("estimated by reason") if waiting.is_estimated else _("recipients")
        tiles.append(Tile(_("In the queue now"), scales.compact(waiting.total), "", note))
    return tiles


def _share_tile(label: str, hour: Headline, day: Headline, name: str, warning: str = "") -> Tile:
    part: int = getattr(hour, name)
    note = _("%(part)s of %(whole)s decided") % {
        "part": scales.compact(part),
        "whole": scales.compact(hour.decided),
    }
    return Tile(
        label,
        scales.percent(part, hour.decided),
        scales.percent(getattr(day, name), day.decided),
        note,
        warning,
    )


def _bounce_warning(hour: Headline) -> str:
    if hour.decided < WORTH_A_WARNING or 100 * hour.hard <= WARN_HARD * hour.decided:
        return ""
    return _("Hard bounces are %(share)s: more than %(limit)s %% endangers the sender's name.") % {
        "share": scales.percent(hour.hard, hour.decided),
        "limit": f"{WARN_HARD:g}",
    }


def _complaint_warning(hour: Headline) -> str:
    limit = WARN_COMPLAINTS * hour.delivered
    if hour.delivered < WORTH_A_WARNING or 100 * hour.complained <= limit:
        return ""
    return _("More than %(limit)s %% complain: providers will begin to refuse.") % {
        "limit": f"{WARN_COMPLAINTS:g}"
    }


# --- charts ---------------------------------------------------------------------------------------


def _outcomes(report: Report) -> dict[str, Any] | None:
    columns = report.columns
    if columns is None or report.is_empty:
        return None
    stack = [
        charts.Series(kind, str(label), columns[kind])
        for kind, label in STACK.items()
        if any(columns.get(kind, ()))
    ]
    accepted = columns.get(EventKind.ACCEPTED.value)
    line = None
    if accepted is not None:
        line = charts.Series(EventKind.ACCEPTED.value, str(ACCEPTED), accepted)
    question = report.question
    drawn = charts.stacked_columns(
        charts.StackedTime(_("Outcomes over time"), question.since, question.step, stack, line)
    )
    keys = [*([line] if line else []), *stack]
    legend = [(one.kind, one.label, scales.compact(one.total)) for one in keys]
    return {"chart": drawn, "legend": legend, "step": scales.span(question.step)}


def _isps(rows: Sequence[IspRow]) -> list[dict[str, Any]]:
    """Return the bars of the largest ISPs: shares of what was decided, and volume."""
    most = max((row.decided for row in rows), default=0)
    found = []
    for row in rows[:MOST_ISPS]:
        segments = [
            charts.Segment(kind.value, str(STACK[kind.value]), row.counts.get(kind.value, 0))
            for kind in _FATES
        ]
        name = row.name or _("all others")
        deferred = row.counts.get(EventKind.DEFERRED.value, 0)
        volume = [charts.Segment("volume", _("decided"), row.decided)]
        found.append(
            {
                "name": name,
                "bar": charts.bar(name, segments, row.decided),
                "volume": charts.bar(_("volume"), volume, most, height=3),
                "share": scales.percent(row.delivered, row.decided),
                "decided": scales.compact(row.decided),
                "deferred": scales.compact(deferred) if deferred else "",
            }
        )
    return found


def _fates(rows: Sequence[IspRow]) -> list[tuple[str, StrOrPromise]]:
    """Return the kinds that the bars of the ISPs have, for their legend."""
    met = {kind for row in rows[:MOST_ISPS] for kind, count in row.counts.items() if count}
    return [(kind.value, STACK[kind.value]) for kind in _FATES if kind.value in met]


def _times(report: Report) -> dict[str, Any] | None:
    times = report.times
    if not times:
        return None
    return {
        "chart": charts.histogram(_("Time from accept to delivery"), times),
        "quantiles": [
            (_("half within"), scales.duration(quantile(times, 0.5))),
            (_("95 % within"), scales.duration(quantile(times, 0.95))),
            (_("99 % within"), scales.duration(quantile(times, 0.99))),
        ],
        "isps": _ranges(report.isps or (), longest=quantile(times, 1.0) or 0.0),
    }


def _ranges(rows: Sequence[IspRow], *, longest: float) -> list[dict[str, str]]:
    """Return how long the largest ISPs took."""
    return [
        {
            "name": row.name or _("all others"),
            "half": scales.duration(quantile(row.times, 0.5)),
            "most": scales.duration(quantile(row.times, 0.95)),
            "bar": charts.time_range(row.name or _("all others"), row.times, longest=longest),
        }
        for row in rows
        if row.times
    ][:MOST_TIMED]


def _replies(report: Report) -> list[dict[str, Any]]:
    most = max((one.events for one in report.replies or ()), default=0)
    found = []
    for one in report.replies or ():
        told = str(STACK.get(one.kind, one.kind))
        segment = charts.Segment(one.kind, told, one.events)
        found.append(
            {
                "reply": one,
                "kind": told,
                "isp": one.isp or _("all others"),
                "bounce_class": one.bounce_class.replace("_", " "),
                "count": scales.grouped(one.events),
                "bar": charts.bar(told, [segment], most, height=6),
            }
        )
    return found


def _waits(waiting: Waiting | None) -> list[dict[str, Any]]:
    if waiting is None:
        return []
    most = max((row.count for row in waiting.rows), default=0)
    return [
        {
            "label": row.label,
            "advice": row.advice,
            "count": scales.grouped(row.count),
            "share": scales.percent(row.count, waiting.total),
            "bar": charts.bar(
                str(row.label), [charts.Segment(row.kind, str(row.label), row.count)], most
            ),
        }
        for row in waiting.rows
    ]
