"""What waits now, and why: the queue by reason.

Gives    waiting_now -> Waiting; WaitRow
Takes    a Question's filters
Raises   StoreUnavailable when PostgreSQL does not answer in time

How many wait is exact: lanes are counted. By which reason is counted row by row in a queue of up to
COUNTED rows, and estimated from a sample of its pages above that, so that a look at a queue of
millions costs what a look at a small one does. What an operator holds is one reason, whatever its
rows say, and is counted by lanes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, connection, transaction
from django.utils.translation import gettext_lazy as _

from control.queue.selectors import Coverage
from mailcore.outcome import RowState, WaitReason
from mailcore.ports import StoreUnavailable

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

COUNTED = 100_000
SAMPLED = 50_000
TIME_LIMIT_MS = 3000

_LANE_COLUMNS = ("account_id", "campaign_id", "isp_id", "sender_id")
_TOTALS = """
SELECT COALESCE(sum(l.waiting), 0), COALESCE(sum(l.leased), 0), COALESCE(sum(l.unknown), 0),
       (SELECT COALESCE(sum(waiting + leased + unknown), 0) FROM ledger_lane),
       COALESCE(sum(l.waiting) FILTER (WHERE {held}), 0)
  FROM ledger_lane l WHERE {lanes}
"""
_BY_REASON = """
SELECT r.reason, r.due_at <= statement_timestamp() AS is_due, count(*)
  FROM ledger_row r {sample} JOIN ledger_lane l ON l.id = r.lane_id
 WHERE r.state = 0 AND {lanes} AND NOT {held}
 GROUP BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class WaitRow:
    """Rows that wait for one reason; `advice` says what it means and what helps."""

    kind: str
    label: StrOrPromise
    advice: StrOrPromise
    count: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """The queue now. `is_estimated`: the shares of the reasons are of a sample."""

    rows: Sequence[WaitRow]
    total: int
    is_estimated: bool


# Rows that a sample did not meet; the reason of none, and drawn as new ones.
UNMET = "unmet"
_WORDS: Mapping[tuple[str, bool], tuple[StrOrPromise, StrOrPromise]] = {
    (WaitReason.NEW.value, True): (
        _("ready to be sent"),
        _("Waits for a connection: for its turn, for the strategy's speed or for a worker."),
    ),
    (WaitReason.NEW.value, False): (
        _("not due yet"),
        _("Was put off by a lock or by the speed of its path."),
    ),
    (UNMET, True): (_("waiting"), _("Too few to meet in a sample.")),
    (WaitReason.SCHEDULED.value, False): (
        _("scheduled"),
        _("The submission asked for a later time."),
    ),
    (WaitReason.SCHEDULED.value, True): (
        _("scheduled, due now"),
        _("Its time has come; it waits for a connection."),
    ),
    (WaitReason.UNROUTED.value, True): (
        _("unrouted"),
        _("Where the domain's mail goes has not been looked up yet."),
    ),
    (WaitReason.DNS.value, False): (
        _("DNS does not answer"),
        _("The domain's name servers failed; the look-up is repeated."),
    ),
    (WaitReason.RETRY.value, False): (
        _("resting before a retry"),
        _("The receiver said to come back later; the retry rule says when."),
    ),
    (WaitReason.RETRY.value, True): (
        _("retry, due now"),
        _("Its rest is over; it waits for a connection."),
    ),
    (WaitReason.RETURNED.value, True): (
        _("given back"),
        _("A worker could not serve it at once and gave it back unharmed."),
    ),
    (WaitReason.RECLAIMED.value, True): (
        _("taken back from a dead worker"),
        _("The process that held it ended; another one takes it."),
    ),
    (WaitReason.NO_SOURCE.value, True): (
        _("no source to send from"),
        _("No active source of the sender's pool may send it: look at pool, node and locks."),
    ),
    (WaitReason.NO_CONTENT.value, True): (
        _("content cannot be read"),
        _("The spool does not give the message: look at the spool of the node."),
    ),
    (WaitReason.HELD.value, False): (
        _("held"),
        _("An operator, or its account, holds it: Holds says who, why and until when."),
    ),
    (WaitReason.RESTORED.value, True): (
        _("set aside after a restored backup"),
        _("It may have been sent since the backup: an operator decides."),
    ),
    (WaitReason.UNKNOWN_OUTCOME.value, True): (
        _("retry after an unknown outcome"),
        _("The connection was lost after the content was sent; the policy decides."),
    ),
}
_ON_WIRE = (_("with a worker"), _("A delivery process has it: connecting, or in the dialogue."))
_UNKNOWN = (
    _("outcome unknown"),
    _("The connection was lost after the content was sent: a copy may have arrived."),
)


def waiting_now(filters: Mapping[str, int], *, counted_up_to: int = COUNTED) -> Waiting:
    """Return how much waits for which reason; the most frequent first."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = {TIME_LIMIT_MS}")
            lanes, values = _lanes(filters)
            held, of_held = Coverage.now().condition()
            cursor.execute(_TOTALS.format(lanes=lanes, held=held), [*of_held, *values])
            waiting, leased, unknown, everything, held_count = map(int, cursor.fetchone())
            free = waiting - held_count
            is_estimated = everything > counted_up_to
            share = min(100.0, 100.0 * SAMPLED / max(1, everything))
            sample = f"TABLESAMPLE SYSTEM ({share:.6f})" if is_estimated else ""
            counted: list[tuple[str, bool, int]] = []
            if free > 0:
                by_reason = _BY_REASON.format(lanes=lanes, sample=sample, held=held)
                cursor.execute(by_reason, [*values, *of_held])
                counted = cursor.fetchall()
    except DatabaseError as exc:
        reason = (str(exc).splitlines() or [""])[0]
        raise StoreUnavailable("postgresql", reason) from exc
    rows = _rows(
        [
            *(_scaled(counted, free) if is_estimated else counted),
            *([(WaitReason.HELD.value, False, held_count)] if held_count else []),
        ]
    )
    rows += [
        WaitRow(f"s-{state.name.lower()}", label, advice, count)
        for state, (label, advice), count in (
            (RowState.LEASED, _ON_WIRE, leased),
            (RowState.UNKNOWN, _UNKNOWN, unknown),
        )
        if count
    ]
    ordered = sorted(rows, key=lambda row: -row.count)
    total = sum(row.count for row in ordered)
    return Waiting(ordered, total, is_estimated)


def _lanes(filters: Mapping[str, int]) -> tuple[str, list[Any]]:
    names = [name for name in _LANE_COLUMNS if name in filters]
    condition = " AND ".join(["TRUE", *(f"l.{name} = %s" for name in names)])
    return condition, [filters[name] for name in names]


def _rows(counted: Sequence[tuple[str, bool, int]]) -> list[WaitRow]:
    merged: dict[tuple[str, bool], int] = {}
    for reason, is_due, count in counted:
        key = (reason, is_due)
        if key not in _WORDS and (reason, not is_due) in _WORDS:
            key = (reason, not is_due)
        merged[key] = merged.get(key, 0) + count
    return [
        WaitRow(f"w-{reason}", *_WORDS.get((reason, is_due), (reason, "")), count)
        for (reason, is_due), count in merged.items()
    ]


def _scaled(counted: Sequence[tuple[str, bool, int]], waiting: int) -> list[tuple[str, bool, int]]:
    """Return the sample's shares of what is known to wait and is not held."""
    seen = sum(count for _reason, _is_due, count in counted)
    if not seen:
        return [(UNMET, True, waiting)] if waiting > 0 else []
    return [(reason, is_due, round(count * waiting / seen)) for reason, is_due, count in counted]
