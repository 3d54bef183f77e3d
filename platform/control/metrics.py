"""What a Prometheus server reads of the installation: GET /metrics.

Gives    MetricsView; metrics, the figures
Takes    a token without an account and with the scope `metrics`
Raises   StoreUnavailable when PostgreSQL does not answer in time, which answers 503
Follows  docs/decisions/0010-metrics-take-a-token.md

The queue is read by lane counts and through the claim's index, the spools from what nodes noted: a
scrape costs the same with a thousand recipients as with a million.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar

from django.http import HttpRequest, HttpResponse

from control.access import Actor, ApiScope
from control.api.base import ApiView
from control.api.problems import ApiError
from control.exposition import CONTENT_TYPE, Kind, Labels, Metric, render
from control.reports.check import ages, checks, standing
from control.reports.spool import SpoolNode, no_content_count, read_rows, spool_nodes
from mailcore.invariants import Invariant, oldest_by_state
from mailcore.outcome import MailClass
from mailio.broker import CONSUMERS

_QUEUE = """
SELECT mail_class, sum(waiting), sum(leased), sum(unknown) FROM ledger_lane GROUP BY mail_class
"""
# No lane has a row due before its next_due_at: lanes that rest are not looked into.
_OLDEST = """
SELECT l.mail_class, extract(epoch FROM statement_timestamp() - min(f.due_at))::float8
  FROM ledger_lane l
 CROSS JOIN LATERAL (SELECT r.due_at FROM ledger_row r
                      WHERE r.lane_id = l.id AND r.state = 0
                      ORDER BY r.due_at, r.id LIMIT 1) AS f
 WHERE l.waiting > 0 AND l.next_due_at <= statement_timestamp()
   AND f.due_at <= statement_timestamp()
 GROUP BY l.mail_class
"""
_LAG = """
SELECT c.name, COALESCE(extract(epoch FROM statement_timestamp() - o.created_at), 0)::float8
  FROM unnest(%s::text[]) AS c(name)
  LEFT JOIN ledger_cursor k ON k.consumer = c.name
  LEFT JOIN LATERAL (
       SELECT b.created_at FROM ledger_outbox b
        WHERE (b.xid, b.id) > (COALESCE(k.xid, '0'::xid8), COALESCE(k.row_id, 0))
        ORDER BY b.xid, b.id LIMIT 1) AS o ON true
"""
_REFUSED = "SELECT consumer, count(*) FROM ledger_outbox_refused GROUP BY consumer"
_POLLS = """
SELECT m.name, extract(epoch FROM statement_timestamp() - p.ended_at)::float8, (p.error <> '')::int
  FROM mailbox_poll p JOIN mailboxes_mailbox m ON m.id = p.mailbox_id
 WHERE m.is_active AND p.ended_at IS NOT NULL
"""
_READ = """
SELECT m.name, t.kind, t.fate, sum(t.messages)
  FROM mailbox_tally t JOIN mailboxes_mailbox m ON m.id = t.mailbox_id GROUP BY 1, 2, 3
"""

_SPOOL: Sequence[tuple[str, Kind, str, Callable[[SpoolNode], float | None]]] = (
    ("disk_bytes", Kind.GAUGE, "Size of the spool's disk.", lambda n: n.total_bytes),
    ("disk_free_bytes", Kind.GAUGE, "Free on the spool's disk.", lambda n: n.free_bytes),
    ("disk_free_inodes", Kind.GAUGE, "Inodes free on the spool's disk.", lambda n: n.free_inodes),
    ("disk_stop_bytes", Kind.GAUGE, "Below this nothing is accepted.", lambda n: n.stop_bytes),
    ("disk_growth_bytes_per_second", Kind.GAUGE, "How fast the disk fills.", lambda n: n.growth),
    (
        "disk_hours_left",
        Kind.GAUGE,
        "Hours until nothing is accepted; absent while that is not in sight.",
        lambda n: n.hours_left,
    ),
    (
        "in_doubt",
        Kind.GAUGE,
        "1 if nothing is deleted until a person has looked.",
        lambda n: float(n.doubt != ""),
    ),
    ("segments", Kind.GAUGE, "Segment files after the last sweep.", lambda n: n.segments),
    ("segment_bytes", Kind.GAUGE, "Size of all segment files.", lambda n: n.size_bytes),
    ("live_bytes", Kind.GAUGE, "Content that may still be needed.", lambda n: n.live_bytes),
    ("foreign_files", Kind.GAUGE, "Files that are none of ours.", lambda n: n.foreign_count),
    ("unreadable_contents", Kind.GAUGE, "Content needed and damaged.", lambda n: n.unreadable),
    (
        "oldest_content_timestamp_seconds",
        Kind.GAUGE,
        "When the oldest segment was begun.",
        lambda n: n.oldest_at.timestamp() if n.oldest_at else None,
    ),
    (
        "measured_timestamp_seconds",
        Kind.GAUGE,
        "When the disk was measured last.",
        lambda n: n.measured_at.timestamp() if n.measured_at else None,
    ),
    (
        "swept_timestamp_seconds",
        Kind.GAUGE,
        "When the last sweep ended.",
        lambda n: n.swept_at.timestamp() if n.swept_at else None,
    ),
    ("deleted_segments_total", Kind.COUNTER, "Segments deleted.", lambda n: n.deleted_all),
    ("deleted_bytes_total", Kind.COUNTER, "Octets deleted.", lambda n: n.deleted_bytes_all),
    ("compacted_segments_total", Kind.COUNTER, "Segments rewritten.", lambda n: n.compacted_all),
    ("copied_bytes_total", Kind.COUNTER, "Octets copied by that.", lambda n: n.copied_bytes_all),
)


class MetricsView(ApiView):
    """A scrape."""

    scopes: ClassVar[dict[str, tuple[ApiScope, ...]]] = {"GET": (ApiScope.METRICS,)}
    schema = None

    def get(self, request: HttpRequest) -> HttpResponse:
        """Answer it. The figures are of all accounts, so no account's token reads them."""
        actor: Any = request.user
        if not isinstance(actor, Actor) or actor.account_id is not None:
            detail = "metrics are of the whole installation; take a token without an account"
            raise ApiError(HTTPStatus.FORBIDDEN, "account_token", detail)
        answer = HttpResponse(render(metrics()), content_type=CONTENT_TYPE)
        answer["Cache-Control"] = "no-store"
        return answer


def metrics() -> Sequence[Metric]:
    """Return all figures, as they are now."""
    return [*_of_queue(), *_of_check(), *_of_outbox(), *_of_mailboxes(), *_of_spools(spool_nodes())]


def _labels(**given: str) -> Labels:
    return tuple(given.items())


def _gauge(name: str, about: str, values: Mapping[Labels, float]) -> Metric:
    return Metric(f"postfleet_{name}", Kind.GAUGE, about, values)


def _of_queue() -> Sequence[Metric]:
    words = {one.value: one.word.lower() for one in MailClass}
    counts = {
        _labels(state=state, mail_class=word): 0.0
        for word in words.values()
        for state in ("waiting", "leased", "unknown")
    }
    for mail_class, *found in read_rows(_QUEUE):
        for state, count in zip(("waiting", "leased", "unknown"), found, strict=True):
            counts[_labels(state=state, mail_class=words[mail_class])] = float(count)
    ages = {_labels(mail_class=word): 0.0 for word in words.values()}
    ages |= {_labels(mail_class=words[number]): age for number, age in read_rows(_OLDEST)}
    lost: dict[Labels, float] = {(): float(no_content_count())}
    return [
        _gauge("queue_recipients", "Recipients owed a result.", counts),
        _gauge("queue_oldest_due_seconds", "For how long the oldest has been due.", ages),
        _gauge("queue_no_content_recipients", "Recipients whose content is not read.", lost),
    ]


def _of_check() -> Sequence[Metric]:
    found = {_labels(invariant=one.value): 0.0 for one in Invariant}
    for row in standing():
        labels = _labels(invariant=row.name)
        found[labels] = found.get(labels, 0.0) + row.count
    oldest = {
        _labels(state=state.name.lower()): age_s for state, age_s in oldest_by_state(ages()).items()
    }
    looked = {_labels(part=one.part, node=one.node): one.ended_at.timestamp() for one in checks()}
    about = "What is not as it must be in the queue, by invariant."
    return [
        _gauge("queue_findings", about, found),
        _gauge("queue_oldest_age_seconds", "Since the oldest was accepted, by state.", oldest),
        _gauge("queue_checked_timestamp_seconds", "When a check last ended.", looked),
    ]


def _of_outbox() -> Sequence[Metric]:
    lags = {_labels(consumer=name): age for name, age in read_rows(_LAG, [list(CONSUMERS)])}
    refused = {_labels(consumer=name): 0.0 for name in CONSUMERS}
    refused |= {_labels(consumer=name): float(count) for name, count in read_rows(_REFUSED)}
    return [
        _gauge("outbox_lag_seconds", "Age of the oldest batch not applied yet.", lags),
        _gauge("outbox_refused_batches", "Batches set aside as unreadable.", refused),
    ]


def _of_mailboxes() -> Sequence[Metric]:
    ages: dict[Labels, float] = {}
    failed: dict[Labels, float] = {}
    for name, age, is_failed in read_rows(_POLLS):
        ages[_labels(mailbox=name)] = age
        failed[_labels(mailbox=name)] = is_failed
    read = {
        _labels(mailbox=name, kind=kind, fate=fate): float(count)
        for name, kind, fate, count in read_rows(_READ)
    }
    about = "Messages read, by kind and fate."
    return [
        _gauge("mailbox_read_age_seconds", "Since the last reading ended.", ages),
        _gauge("mailbox_failed", "1 if the last reading failed.", failed),
        Metric("postfleet_mailbox_messages_total", Kind.COUNTER, about, read),
    ]


def _of_spools(nodes: Sequence[SpoolNode]) -> Sequence[Metric]:
    told = []
    for name, kind, about, figure in _SPOOL:
        values = {_labels(node=node.node): figure(node) for node in nodes}
        known = {labels: value for labels, value in values.items() if value is not None}
        told.append(Metric(f"postfleet_spool_{name}", kind, about, known))
    kept_bytes = {
        _labels(node=node.node, keeper=keeper): float(size_bytes)
        for node in nodes
        for keeper, (_count, size_bytes) in node.kept.items()
    }
    told.append(_gauge("spool_kept_bytes", "Segment files by what keeps them.", kept_bytes))
    return told
