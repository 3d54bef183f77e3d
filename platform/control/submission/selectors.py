"""What became of a message: what is still owed, and all that happened to it.

Gives    message_state -> MessageState, None for a message that is not the account's
Takes    the queue (two queries), the holds, the outbox that is not applied yet, the statistics
Raises   StoreUnavailable when nothing of its history can be read

The order of the reads matters: events go from the queue's transaction to the outbox to the
statistics, so whoever reads in that order misses none. What is seen twice has one event id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from control.queue.models import Row
from control.queue.selectors import Coverage
from mailcore import holds
from mailcore.events import EventKind, decode_lines, raw_lines
from mailcore.outcome import RowState
from mailcore.ports import Statistics, StoreUnavailable
from mailio.ledger.outbox import PgOutbox

CONSUMER = "statistics"
_MOST_BATCHES = 5000
_ORDER = {kind.value: number for number, kind in enumerate(EventKind)}

EventRow = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RecipientState:
    """One recipient: `row` while a result is owed, the hold that keeps it, its events oldest
    first."""

    number: int
    recipient: str
    state: str
    row: Row | None
    events: tuple[EventRow, ...]
    hold: holds.Hold | None = None


@dataclass(frozen=True, slots=True)
class MessageState:
    """A message. `is_trace_complete` is False while the statistics cannot be read."""

    message_id: UUID
    recipients: tuple[RecipientState, ...]
    is_trace_complete: bool


def message_state(
    message_id: UUID, *, account_id: int, outbox: PgOutbox, statistics: Statistics
) -> MessageState | None:
    """Return what became of a message of this account."""
    rows = {
        row.recipient_no: row
        for row in Row.objects.filter(
            message_id=message_id, lane__account_id=account_id
        ).select_related("lane")
    }
    fresh = _unapplied(message_id, outbox)
    try:
        applied: Sequence[EventRow] = statistics.trace(message_id)
        is_complete = True
    except StoreUnavailable:
        if not rows and not fresh:
            raise
        applied, is_complete = [], False
    events = [e for e in _merged([*applied, *fresh]) if e.get("account_id") == account_id]
    if not rows and not events:
        return None
    by_number: dict[int, list[EventRow]] = {number: [] for number in rows}
    for event in events:
        by_number.setdefault(int(event.get("recipient_no", 0)), []).append(event)
    coverage = Coverage.now() if rows else None
    recipients = tuple(
        _recipient(number, rows.get(number), by_number[number], coverage)
        for number in sorted(by_number)
    )
    return MessageState(message_id, recipients, is_complete)


def _unapplied(message_id: UUID, outbox: PgOutbox) -> list[EventRow]:
    wanted = str(message_id)
    needle = wanted.encode("ascii")
    found: list[EventRow] = []
    for body in outbox.unapplied(CONSUMER, _MOST_BATCHES):
        if needle in raw_lines(body):
            found += [
                {name: getattr(event, name) for name in event.__slots__}
                for event in decode_lines(body)
                if event.message_id == wanted
            ]
    return found


def _merged(events: Iterable[EventRow]) -> list[EventRow]:
    distinct = {str(event["event_id"]): event for event in events}
    return sorted(
        distinct.values(), key=lambda e: (int(e["occurred_ms"]), _ORDER.get(str(e["kind"]), 99))
    )


def _recipient(
    number: int, row: Row | None, events: Sequence[EventRow], coverage: Coverage | None
) -> RecipientState:
    finals = _finals(events)
    # A row ends in the transaction that tells its final event: beside one, the row we read is old.
    if row is not None and not finals:
        state = "unknown" if row.state == RowState.UNKNOWN else "queued"
        hold = None
        if coverage is not None and row.state != RowState.LEASED:
            hold = coverage.of_lane(row.lane, domain=row.recipient.rpartition("@")[2])
        return RecipientState(number, row.recipient, state, row, tuple(events), hold)
    state = finals[0] if finals else "settling"
    return RecipientState(number, str(events[0]["recipient"]), state, None, tuple(events))


def _finals(events: Sequence[EventRow]) -> list[str]:
    """Return the kinds of events that end a recipient, since it was last accepted: an undone purge
    accepts it once more, under the next claim number."""
    accepted = [_claim_no(e) for e in events if e["kind"] == EventKind.ACCEPTED.value]
    since = max(accepted, default=0)
    kinds = [str(event["kind"]) for event in events if _claim_no(event) >= since]
    return [kind for kind in kinds if kind == "rejected" or EventKind(kind).is_final]


def _claim_no(event: EventRow) -> int:
    return int(event.get("claim_no", 0))
