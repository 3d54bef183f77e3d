"""The figures of the dashboard: statistics from ClickHouse, the queue from PostgreSQL.

Gives    report_of, read_report -> Report; reply_counts, undelivered (exports); Headline, IspRow
Takes    a Question that a form has checked
Raises   StoreUnavailable from the exports; a report says what is missing in `problem` instead

At most six queries of the statistics, each bounded in time by the question and by a limit on the
server, and kept for some seconds, so that many who look cost as much as one.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from django.conf import settings
from django.core.cache import cache

from control.reports.forms import Question
from control.reports.scales import DAY, HOUR, MINUTE
from mailcore.events import FINAL_KINDS, EventKind
from mailcore.ports import StoreUnavailable
from mailio.settings import Settings
from mailio.stats import ClickhouseStatistics, open_statistics
from mailio.stats.reports import Figures, ReplyCount, Reports, Undelivered

ANSWER_S = 15.0
KEPT_S = 4
MOST_REPLIES = 10
MOST_EXPORTED = 10_000
FINALS = frozenset(kind.value for kind in FINAL_KINDS)


@dataclass(frozen=True, slots=True)
class Headline:
    """How some time went. Shares are of the recipients whose fate was decided in it."""

    accepted: int
    decided: int
    delivered: int
    bounced: int
    hard: int
    complained: int

    @classmethod
    def of(cls, rows: Sequence[Figures]) -> Headline:
        """Count figures by kind and bounce type."""
        counts = _by_kind(rows)
        bounced = (EventKind.BOUNCED.value, EventKind.LATE_BOUNCED.value)
        hard = sum(row.events for row in rows if row.by[0] in bounced and row.by[1] == "hard")
        return cls(
            accepted=counts.get(EventKind.ACCEPTED.value, 0),
            decided=sum(counts.get(kind, 0) for kind in FINALS),
            delivered=counts.get(EventKind.DELIVERED.value, 0),
            bounced=sum(counts.get(kind, 0) for kind in bounced),
            hard=hard,
            complained=counts.get(EventKind.COMPLAINED.value, 0),
        )


@dataclass(frozen=True, slots=True)
class IspRow:
    """What became of the mail to one ISP; `times` is the histogram of its deliveries."""

    isp_id: int
    name: str
    counts: Mapping[str, int]
    times: Mapping[int, int]

    @property
    def decided(self) -> int:
        """Recipients whose fate was decided."""
        return sum(self.counts.get(kind, 0) for kind in FINALS)

    @property
    def delivered(self) -> int:
        """Recipients it took."""
        return self.counts.get(EventKind.DELIVERED.value, 0)


@dataclass(frozen=True, slots=True)
class Report:
    """All that statistics say about a question. `problem` tells why something is missing."""

    question: Question
    hour: Headline | None = None
    day: Headline | None = None
    columns: Mapping[str, Sequence[int]] | None = None
    isps: Sequence[IspRow] | None = None
    replies: Sequence[ReplyCount] | None = None
    problem: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all happened."""
        return self.columns is not None and not any(map(any, self.columns.values()))

    @property
    def times(self) -> Mapping[int, int]:
        """The histogram of all deliveries."""
        total: dict[int, int] = {}
        for row in self.isps or ():
            for bucket, count in row.times.items():
                total[bucket] = total.get(bucket, 0) + count
        return total


class _Opened:
    """One connection pool a process: a forked child opens its own."""

    lock: ClassVar[threading.Lock] = threading.Lock()
    by_pid: ClassVar[dict[int, tuple[str, ClickhouseStatistics]]] = {}


def reports() -> Reports:
    """Return the statistics of this process, opened when first asked for."""
    configured: Settings | None = settings.POSTFLEET
    if configured is None:
        raise StoreUnavailable("settings", "this process has no stores")
    url, pid = configured.clickhouse_url, os.getpid()
    with _Opened.lock:
        known = _Opened.by_pid.get(pid)
        if known is None or known[0] != url:
            if known is not None:
                known[1].close()
            known = _Opened.by_pid[pid] = (url, open_statistics(url, reply_s=ANSWER_S))
        return known[1].reports


def close_reports() -> None:
    """Close this process's connections; the next question opens them again."""
    with _Opened.lock:
        known = _Opened.by_pid.pop(os.getpid(), None)
    if known is not None:
        known[1].close()


def report_of(question: Question, *, now: datetime) -> Report:
    """Return what statistics say; kept for some seconds, if they could be read."""
    asked = f"{settings.POSTFLEET and settings.POSTFLEET.clickhouse_url} {question}"
    key = f"reports:{hashlib.sha256(asked.encode()).hexdigest()}"
    found: Report | None = cache.get(key)
    if found is None:
        found = read_report(reports, question, now=now)
        if not found.problem:
            cache.set(key, found, KEPT_S)
    return found


def read_report(opened: Callable[[], Reports], question: Question, *, now: datetime) -> Report:
    """Ask for one part after the other; the first that fails ends it, for a store that is away
    would be waited for each time."""
    parts: dict[str, object] = {}
    try:
        source = opened()
        parts["columns"] = _columns(source, question)
        parts["isps"] = _isps(source, question)
        parts["hour"] = _headline(source, question, now - HOUR, now)
        parts["day"] = _headline(source, question, now - DAY, now)
        parts["replies"] = source.replies(
            since=question.since,
            until=question.until,
            where=question.filters,
            limit=MOST_REPLIES,
        )
    except StoreUnavailable as exc:
        parts["problem"] = str(exc)
    return Report(question, **parts)  # type: ignore[arg-type]


def _headline(source: Reports, question: Question, since: datetime, now: datetime) -> Headline:
    rows = source.outcomes(
        since=since, until=now + MINUTE, by=("kind", "bounce_type"), where=question.filters
    )
    return Headline.of(rows)


def _columns(source: Reports, question: Question) -> dict[str, list[int]]:
    """Return, by kind, how many events each column has."""
    rows = source.outcomes(
        since=question.since,
        until=question.until,
        by=("kind",),
        step=question.step,
        where=question.filters,
    )
    length = -(-(question.until - question.since) // question.step)
    columns: dict[str, list[int]] = {}
    for row in rows:
        if row.start is not None:
            place = (row.start - question.since) // question.step
            columns.setdefault(str(row.by[0]), [0] * length)[place] += row.events
    return columns or {EventKind.DELIVERED.value: [0] * length}


def _isps(source: Reports, question: Question) -> list[IspRow]:
    since, until, where = question.since, question.until, question.filters
    by = ("isp_id", "isp", "kind")
    found = source.outcomes(since=since, until=until, by=by, where=where)
    times = source.delivery_histograms(since=since, until=until, by=by[:1], where=where)
    names: dict[int, str] = {}
    counts: dict[int, dict[str, int]] = {}
    for row in found:
        isp_id, name, kind = int(str(row.by[0])), str(row.by[1]), str(row.by[2])
        # Where mail goes is known after routing only: what is accepted or refused before may
        # have no ISP yet.
        if kind in (EventKind.ACCEPTED.value, EventKind.REJECTED.value):
            continue
        names[isp_id] = name or names.get(isp_id, "")
        of_isp = counts.setdefault(isp_id, {})
        of_isp[kind] = of_isp.get(kind, 0) + row.events
    rows = [IspRow(key, names[key], counts[key], times.get((key,), {})) for key in counts]
    return sorted(rows, key=lambda row: (-row.decided, -sum(row.counts.values()), row.isp_id))


def _by_kind(rows: Sequence[Figures]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        counts[str(row.by[0])] = counts.get(str(row.by[0]), 0) + row.events
    return counts


# --- exports --------------------------------------------------------------------------------------


def reply_counts(question: Question) -> Sequence[ReplyCount]:
    """Return what servers said, for an export."""
    return reports().replies(
        since=question.since, until=question.until, where=question.filters, limit=MOST_EXPORTED
    )


def undelivered(question: Question, *, group_by: str) -> Sequence[Undelivered]:
    """Return where mail did not arrive and why, for an export."""
    return reports().undeliveries(
        since=question.since,
        until=question.until,
        group_by=group_by,
        where=question.filters,
        limit=MOST_EXPORTED,
    )
