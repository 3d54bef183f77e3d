"""The check of the queue as the page shows it: findings in words, ages as bars.

Gives    shown -> the context of the page; of_finding, in words
Takes    what control.reports.check read
Raises   nothing
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from control.reports.charts import Segment, bar
from control.reports.check import CheckRow, FindingRow
from control.reports.scales import duration, grouped
from mailcore.invariants import Mend, Severity, StateAge
from mailcore.outcome import RowState

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

STATES: Mapping[int, tuple[str, StrOrPromise]] = {
    RowState.WAITING.value: ("accepted", gettext_lazy("waiting")),
    RowState.LEASED.value: ("delivered", gettext_lazy("leased")),
    RowState.UNKNOWN.value: ("complained", gettext_lazy("unknown")),
}
MENDERS: Mapping[Mend, StrOrPromise] = {
    Mend.RECOUNT: gettext_lazy("is counted anew by the next check"),
    Mend.EXPIRE: gettext_lazy("upkeep ends it; if it stays, upkeep does not run or cannot"),
    Mend.REAP: gettext_lazy("upkeep takes it back; if it stays, upkeep does not run or cannot"),
    Mend.NOBODY: gettext_lazy("needs a person"),
}
PARTS: Mapping[str, StrOrPromise] = {
    "ledger": gettext_lazy("queue, lanes, events, processes"),
    "content": gettext_lazy("content"),
}
_PAGES = {
    "rows": "admin:queue_row_change",
    "contents": "admin:queue_row_change",
    "lanes": "admin:queue_lane_change",
    "processes": "admin:queue_incarnation_change",
    "outbox batches": "admin:queue_outboxrow_change",
}


def shown(
    standing: Sequence[FindingRow],
    ended: Sequence[FindingRow],
    checks: Sequence[CheckRow],
    ages: Sequence[StateAge],
) -> dict[str, Any]:
    """Return the context of the page."""
    return {
        "findings": [of_finding(one) for one in standing],
        "ended": [of_finding(one) for one in ended],
        "checks": [_check(one) for one in checks],
        "has_ledger": any(one.part == "ledger" for one in checks),
        "ages": _ages(ages),
    }


def of_finding(row: FindingRow) -> dict[str, Any]:
    """Return a finding in words."""
    rule = row.rule
    page = _PAGES.get(rule.of, "") if rule is not None else ""
    return {
        "name": row.name,
        "words": _(rule.words) if rule is not None else _("A newer version found this."),
        "is_error": rule is not None and rule.severity is Severity.ERROR,
        "what_next": MENDERS[rule.mend] if rule is not None else "",
        "of": _(rule.of) if rule is not None else "",
        "node": row.node,
        "count": grouped(row.count),
        "mended": grouped(row.mended) if row.mended else "",
        "note": row.note,
        "first_seen_at": row.first_seen_at,
        "last_seen_at": row.last_seen_at,
        "ended_at": row.ended_at,
        "examples": [
            {"id": one, "url": reverse(page, args=[one]) if page else ""} for one in row.examples
        ],
    }


def _check(row: CheckRow) -> dict[str, Any]:
    return {
        "words": PARTS.get(row.part, row.part),
        "node": row.node,
        "ended_at": row.ended_at,
        "ago": duration(row.age_s * 1000),
        "took": duration(row.took_s * 1000),
        "looked_at": grouped(row.looked_at),
        "is_sample": not row.is_whole,
        "is_silent": row.is_silent,
    }


def _ages(ages: Sequence[StateAge]) -> list[dict[str, Any]]:
    """Return a bar for each state and reason, as long as its oldest row is old."""
    longest = max((one.oldest_s for one in ages), default=0.0)
    rows = []
    for one in ages:
        kind, word = STATES.get(one.state, ("purged", str(one.state)))
        words = f"{word}: {one.reason}" if one.reason else str(word)
        age = duration(one.oldest_s * 1000)
        # A bar tells its number as a count: whole seconds.
        part = Segment(kind, _("seconds"), max(1, round(one.oldest_s)))
        rows.append(
            {
                "words": words,
                "age": age,
                "count": grouped(one.rows),
                "url": reverse("admin:queue_row_change", args=[one.row_id]),
                "bar": bar(f"{words}: {age}", [part], max(1, round(longest)), height=10),
            }
        )
    return rows
