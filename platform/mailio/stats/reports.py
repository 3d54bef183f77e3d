"""What dashboards ask of the roll-ups.

Gives    Reports: outcomes (figures by any dimensions and steps of time), delivery_times
         (quantiles), delivery_histograms, replies (what servers said most), undeliveries (who was
         told what, from the events themselves), tls (how mail was encrypted, from the events)
Takes    a driver, times in UTC, names of dimensions (roll_up.OUTCOME_NAMES, REPLY_NAMES)
Raises   StoreUnavailable; ValueError for a dimension there is not or a time without zone
Follows  design.md section 3 step 8

Only the newest generation of each minute counts; see roll_up.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mailcore.stats import quantile
from mailio.stats.driver import Driver, faults, text_literal
from mailio.stats.roll_up import OUTCOME_NAMES, REPLY_NAMES, current

MINUTE = timedelta(minutes=1)
# A dashboard that asks too much gets no answer; it must not slow the inserts down.
QUERY_LIMIT_S = 10
_LIMITED = f" SETTINGS max_execution_time = {QUERY_LIMIT_S}"
UNDELIVERED_KINDS = ("bounced", "expired", "late_bounced")
_UNDELIVERED_BY = {"from_domain": "header_from", "source_ip": "source_ip"}
_EVENT_FILTERS = ("account_id", "campaign_id", "sender_id", "isp_id")


@dataclass(frozen=True, slots=True)
class Figures:
    """One line of a report. `start` is the step of time it is about, None without steps; `by` the
    values of the dimensions asked for, in their order."""

    start: datetime | None
    by: tuple[object, ...]
    events: int
    first_tries: int
    with_tls: int
    size_bytes: int
    queue_ms: int
    dialogue_ms: int


@dataclass(frozen=True, slots=True)
class ReplyCount:
    """How often a server said something, normalised."""

    isp: str
    kind: str
    bounce_class: str
    code: int
    enhanced: str
    rule: str
    reply: str
    events: int


@dataclass(frozen=True, slots=True)
class Undelivered:
    """How often mail of a From domain or of a sending IP to a domain ended with these words."""

    group: str
    to_domain: str
    reply: str
    events: int


@dataclass(frozen=True, slots=True)
class TlsCount:
    """How often TLS with an MX host went one way for a domain: `result` is the RFC 8460 word for
    what failed, "" for nothing. `start` as in Figures; addresses only where they are asked for."""

    start: datetime | None
    domain: str
    policy: str
    mx_host: str
    result: str
    attempts: int
    encrypted: int
    source_ip: str = ""
    mx_address: str = ""


class Reports:
    """Questions to the roll-ups of one database. Whole minutes: [since, until)."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def outcomes(
        self,
        *,
        since: datetime,
        until: datetime,
        by: Sequence[str] = ("kind",),
        step: timedelta | None = None,
        where: Mapping[str, object] | None = None,
    ) -> list[Figures]:
        """Return the figures by these dimensions, in order of time and dimensions.

        With `step` (whole minutes) also by time; steps without events are left out.
        """
        keys = _known(by, OUTCOME_NAMES)
        every_s = 0 if step is None else _whole_minutes(step)
        start = f"intDiv(toUInt32(minute), {every_s}) * {every_s}" if every_s else "0"
        condition = _condition("roll_up", since, until, _filters(where, OUTCOME_NAMES))
        columns = ", ".join(["start", *keys])
        sql = f"""
SELECT {start} AS {columns}, sum(events), sum(first_tries), sum(with_tls), sum(size_bytes),
       sum(queue_ms), sum(dialogue_ms)
  FROM roll_up FINAL WHERE {condition}
 GROUP BY {columns} ORDER BY {columns}{_LIMITED}
"""  # noqa: S608 (names from a closed list, literals of ours)
        with faults():
            rows = self._driver.query(sql)
        return [
            Figures(
                datetime.fromtimestamp(row[0], UTC) if every_s else None,
                tuple(row[1:-6]),
                *(int(value) for value in row[-6:]),
            )
            for row in rows
        ]

    def delivery_times(
        self,
        *,
        since: datetime,
        until: datetime,
        levels: Sequence[float] = (0.5, 0.95, 0.99),
        by: Sequence[str] = (),
        where: Mapping[str, object] | None = None,
    ) -> dict[tuple[object, ...], tuple[float | None, ...]]:
        """Return, by dimensions, the milliseconds from accept to delivery at these levels."""
        found = self.delivery_histograms(since=since, until=until, by=by, where=where)
        return {
            key: tuple(quantile(histogram, level) for level in levels)
            for key, histogram in found.items()
        }

    def delivery_histograms(
        self,
        *,
        since: datetime,
        until: datetime,
        by: Sequence[str] = (),
        where: Mapping[str, object] | None = None,
    ) -> dict[tuple[object, ...], dict[int, int]]:
        """Return, by dimensions, how many deliveries took which time since accept.

        Buckets are those of mailcore.stats: bucket_value, quantile.
        """
        keys = _known(by, OUTCOME_NAMES)
        filters = _filters({**(where or {}), "kind": "delivered"}, OUTCOME_NAMES)
        condition = _condition("roll_up", since, until, filters)
        columns = "".join(f"{key}, " for key in keys)
        group = f" GROUP BY {', '.join(keys)}" if keys else ""
        sql = (
            f"SELECT {columns}sumMap(queue_bucket, queue_count) AS histogram"  # noqa: S608
            f" FROM roll_up FINAL WHERE {condition}{group}{_LIMITED}"
        )
        with faults():
            rows = self._driver.query(sql)
        return {
            tuple(row[:-1]): {int(b): int(n) for b, n in zip(*row[-1], strict=True)}
            for row in rows
            if row[-1][0]
        }

    def replies(
        self,
        *,
        since: datetime,
        until: datetime,
        where: Mapping[str, object] | None = None,
        limit: int = 50,
    ) -> list[ReplyCount]:
        """Return what servers said most often, the most frequent first."""
        condition = _condition("roll_up_reply", since, until, _filters(where, REPLY_NAMES))
        columns = "isp, kind, bounce_class, code, enhanced, rule, reply_normal"
        sql = (
            f"SELECT {columns}, sum(events) AS total FROM roll_up_reply FINAL"  # noqa: S608
            f" WHERE {condition} GROUP BY {columns} ORDER BY total DESC, {columns}"
            f" LIMIT {int(limit)}{_LIMITED}"
        )
        with faults():
            rows = self._driver.query(sql)
        return [
            ReplyCount(isp, kind, bounce_class, int(code), enhanced, rule, reply, int(events))
            for isp, kind, bounce_class, code, enhanced, rule, reply, events in rows
        ]

    def undeliveries(
        self,
        *,
        since: datetime,
        until: datetime,
        group_by: str = "from_domain",
        where: Mapping[str, object] | None = None,
        limit: int = 10_000,
    ) -> list[Undelivered]:
        """Return, by `from_domain` or `source_ip`, where mail did not arrive and what was said.

        Read from the events, whose minutes lead; the most frequent come first.
        """
        if group_by not in _UNDELIVERED_BY:
            raise ValueError(f"{group_by!r} is none of {', '.join(_UNDELIVERED_BY)}")
        kinds = ", ".join(map(text_literal, UNDELIVERED_KINDS))
        parts = [_minutes(since, until), f"kind IN ({kinds})", *_filters(where, _EVENT_FILTERS)]
        columns = f"{_UNDELIVERED_BY[group_by]}, recipient_domain, reply_normal"
        sql = (
            f"SELECT {columns}, uniqExact(event_id) AS total FROM event"  # noqa: S608
            f" WHERE {' AND '.join(parts)} GROUP BY {columns} ORDER BY total DESC, {columns}"
            f" LIMIT {int(limit)}{_LIMITED}"
        )
        with faults():
            rows = self._driver.query(sql)
        return [Undelivered(group, domain, reply, int(n)) for group, domain, reply, n in rows]

    def tls(
        self,
        *,
        since: datetime,
        until: datetime,
        step: timedelta | None = None,
        by_host: bool = True,
        to_domain: str = "",
        only_failed: bool = False,
        where: Mapping[str, object] | None = None,
        limit: int = 10_000,
    ) -> list[TlsCount]:
        """Return by policy and result, and with `by_host` by domain and MX host, how many
        attempts went which way; the most frequent first. Read from the events. `to_domain`: of one
        domain's own hosts, which a relay is none of, and by address."""
        every_s = 0 if step is None else _whole_minutes(step)
        start = f"intDiv(toUInt32(minute), {every_s}) * {every_s}" if every_s else "0"
        parts = [_minutes(since, until), "tls_policy != ''", *_filters(where, _EVENT_FILTERS)]
        if to_domain:
            parts.append(f"recipient_domain = {text_literal(to_domain)}")
            parts.append("NOT startsWith(site, 'relay:')")
        if only_failed:
            parts.append("tls_result != ''")
        names = "recipient_domain, tls_policy, mx_host" if by_host else "'', tls_policy, ''"
        keys = names if by_host else "tls_policy"
        addresses = "source_ip, mx_address" if to_domain else "'', ''"
        keys += f", {addresses}" if to_domain else ""
        sql = f"""
SELECT {start} AS at, {names}, tls_result, uniqExact(event_id) AS total,
       uniqExactIf(event_id, tls_version != ''), {addresses}
  FROM event WHERE {" AND ".join(parts)}
 GROUP BY at, {keys}, tls_result ORDER BY total DESC, at, {keys}, tls_result
 LIMIT {int(limit)}{_LIMITED}
"""  # noqa: S608 (names of ours, literals escaped)
        with faults():
            rows = self._driver.query(sql)
        return [
            TlsCount(
                datetime.fromtimestamp(at, UTC) if every_s else None,
                *(of_domain, policy, mx_host, result),
                *(int(attempts), int(encrypted), source, address),
            )
            for at, of_domain, policy, mx_host, result, attempts, encrypted, source, address in rows
        ]


def _known(names: Sequence[str], known: Sequence[str]) -> list[str]:
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r} is no dimension; there are {', '.join(known)}")
    return list(names)


def _filters(where: Mapping[str, object] | None, known: Sequence[str]) -> list[str]:
    filters = []
    for name in _known(list(where or {}), known):
        value = (where or {})[name]
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError(f"{name}: neither a number nor a text")
        filters.append(f"{name} = {value if isinstance(value, int) else text_literal(value)}")
    return filters


def _condition(table: str, since: datetime, until: datetime, filters: list[str]) -> str:
    return " AND ".join([current(table, _minutes(since, until)), *filters])


def _minutes(since: datetime, until: datetime) -> str:
    first, last = _seconds(since) // 60 * 60, -(-_seconds(until) // 60) * 60
    return f"minute >= toDateTime({first}, 'UTC') AND minute < toDateTime({last}, 'UTC')"


def _seconds(moment: datetime) -> int:
    if moment.tzinfo is None:
        raise ValueError("a time of the statistics has no zone")
    return int(moment.timestamp())


def _whole_minutes(step: timedelta) -> int:
    if step < MINUTE or step % MINUTE:
        raise ValueError(f"a step of {step} is not whole minutes")
    return int(step.total_seconds())
