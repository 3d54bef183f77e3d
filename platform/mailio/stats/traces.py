"""What is known of recipients whose rows are gone: of many messages in a few queries.

Gives    RecipientTraces, which implements mailcore.ports.Traces; open_traces
Takes    the statistics' URL, that of the outbox for what they do not have yet
Raises   StoreUnavailable
Follows  style.md rule 6: one look for a batch, not one for each message
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from mailcore.events import FIELDS, decode_lines, raw_lines
from mailcore.ports import StoreUnavailable
from mailio.ledger.outbox import PgOutbox
from mailio.stats.driver import Driver, faults, minutes_literal
from mailio.stats.store import open_driver

CONSUMER = "statistics"
MESSAGES_AT_ONCE = 200
MINUTES_AT_ONCE = 500
MOST_BATCHES = 2000

_COLUMNS = ", ".join(
    "toString(message_id) AS message_text" if name == "message_id" else name for name in FIELDS
)


def open_traces(clickhouse_url: str, database_url: str) -> RecipientTraces:
    """Return the traces of a statistics database and an outbox; nothing is connected yet."""
    return RecipientTraces(open_driver(clickhouse_url), PgOutbox(database_url))


class RecipientTraces:
    """Looks into the statistics, then into what they have not applied. Thread-safe."""

    def __init__(self, driver: Driver, outbox: PgOutbox) -> None:
        self._driver = driver
        self._outbox = outbox

    def of_messages(self, message_ids: Sequence[UUID]) -> Sequence[Mapping[str, object]]:
        """Return events of these messages as rows of `events.Event`.

        The statistics may be away: then what the outbox still has is all there is, and if that
        does not have every message, StoreUnavailable says so.
        """
        wanted = list(dict.fromkeys(message_ids))
        found: list[Mapping[str, object]] = []
        fault: StoreUnavailable | None = None
        try:
            for start in range(0, len(wanted), MESSAGES_AT_ONCE):
                found += self._applied(wanted[start : start + MESSAGES_AT_ONCE])
        except StoreUnavailable as exc:
            fault = exc
        known = {row["message_id"] for row in found}
        missing = {str(one) for one in wanted} - known
        if missing:
            found += self._unapplied(missing)
        if fault is not None and {str(one) for one in wanted} - {r["message_id"] for r in found}:
            raise fault
        return found

    def close(self) -> None:
        """Close all connections."""
        self._driver.close()
        self._outbox.close()

    def _applied(self, message_ids: Sequence[UUID]) -> list[Mapping[str, object]]:
        listed = ", ".join(f"toUUID('{one}')" for one in message_ids)
        rows: list[Mapping[str, object]] = []
        with faults():
            minutes = [
                int(minute)
                for (minute,) in self._driver.query(
                    "SELECT DISTINCT intDiv(toUInt32(minute), 60) FROM message_by_minute"  # noqa: S608
                    f" WHERE message_id IN ({listed})"
                )
            ]
            for start in range(0, len(minutes), MINUTES_AT_ONCE):
                during = minutes_literal(minutes[start : start + MINUTES_AT_ONCE])
                rows += [
                    dict(zip(FIELDS, row, strict=True))
                    for row in self._driver.query(
                        f"SELECT {_COLUMNS} FROM event"  # noqa: S608
                        f" WHERE minute IN ({during}) AND message_id IN ({listed})"
                        " LIMIT 1 BY event_id"
                    )
                ]
        return rows

    def _unapplied(self, wanted: set[str]) -> list[Mapping[str, object]]:
        needles = [one.encode("ascii") for one in wanted]
        found: list[Mapping[str, object]] = []
        for body in self._outbox.unapplied(CONSUMER, MOST_BATCHES):
            lines = raw_lines(body)
            if any(needle in lines for needle in needles):
                found += [
                    {name: getattr(event, name) for name in FIELDS}
                    for event in decode_lines(body)
                    if event.message_id in wanted
                ]
        return found
