"""Events, until every consumer has them.

Gives    PgOutbox, which implements mailcore.ports.Outbox; Backlog
Takes    a libpq URL
Raises   StoreUnavailable
Follows  design.md section 2; ledger.md trap 4: an id alone is no cursor

Transactions commit in another order than they took their numbers. A batch is read once no
transaction that began before it can still be open: its `xid` is below the snapshot's xmin. Up to
there nothing can appear behind the cursor, which is the pair (xid, id), ordered as columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mailcore.ports import OutboxBatch, OutboxCursor, StoreUnavailable
from mailio.ledger.leader import Leadership
from mailio.ledger.pool import STORE, Profile, Session

_CURSOR = """(
    SELECT xid, row_id FROM ledger_cursor WHERE consumer = $1::text
     UNION ALL
    SELECT '0'::xid8, 0
     WHERE NOT EXISTS (SELECT FROM ledger_cursor WHERE consumer = $1::text)) AS c"""

_AFTER = f"""
SELECT o.xid::text, o.id, o.event_count, o.body
  FROM {_CURSOR}
 CROSS JOIN LATERAL (
    SELECT b.* FROM ledger_outbox b
     WHERE (b.xid, b.id) > (c.xid, c.row_id) {{settled}}
     ORDER BY b.xid, b.id LIMIT $2::int) AS o
 ORDER BY o.xid, o.id
"""  # noqa: S608 (constants of this module)

# The row is made by the first reader, so that pruning knows whom to wait for. The cursor never
# goes back: a reader that lost its lock without noticing must not undo its successor's work.
_ADVANCE = """
INSERT INTO ledger_cursor AS c (consumer, xid, row_id)
VALUES ($1::text, $2::text::xid8, $3::bigint)
ON CONFLICT (consumer) DO UPDATE
   SET xid = excluded.xid, row_id = excluded.row_id, updated_at = statement_timestamp()
 WHERE (c.xid, c.row_id) < (excluded.xid, excluded.row_id)
"""

_BACKLOG = f"""
SELECT count(*), COALESCE(sum(b.event_count), 0),
       COALESCE(extract(epoch FROM statement_timestamp() - min(b.created_at)), 0)::float8
  FROM {_CURSOR} JOIN ledger_outbox b ON (b.xid, b.id) > (c.xid, c.row_id)
"""  # noqa: S608 (constants of this module)

# Not prepared with the others: it is almost never run. What was set aside once stays as it was.
_REFUSE = """
INSERT INTO ledger_outbox_refused (consumer, xid, row_id, event_count, reason, body)
VALUES (%s, %s::text::xid8, %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""

_STATEMENTS = {
    "outbox_read": _AFTER.format(settled="AND b.xid < pg_snapshot_xmin(pg_current_snapshot())"),
    "outbox_unapplied": _AFTER.format(settled=""),
    "outbox_advance": _ADVANCE,
    "outbox_backlog": _BACKLOG,
}


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a consumer has not applied: batches, events, and the age of the oldest."""

    batches: int
    events: int
    oldest_s: float


class PgOutbox:
    """The outbox of one process; thread-safe. Locks, reads and cursors share a session, so that
    who lost the lock with the connection also notices."""

    def __init__(self, dsn: str, *, statement_timeout_s: float = 30.0) -> None:
        self._session = Session(
            dsn,
            role="outbox",
            profile=Profile.HOT,
            statements=_STATEMENTS,
            statement_timeout_s=statement_timeout_s,
        )
        self._leads = Leadership(self._session)
        self._known: set[str] = set()

    def lead(self, consumer: str) -> bool:
        """Take the consumer's lock on this session; False if another process applies."""
        return self._leads.take(f"outbox:{consumer}")

    def release(self, consumer: str) -> None:
        """Give the lock back."""
        self._leads.release(f"outbox:{consumer}")

    def read(self, consumer: str, *, limit: int) -> Sequence[OutboxBatch]:
        """Return batches after the consumer's cursor whose order is settled."""
        if consumer not in self._known:
            self._session.call("outbox_advance", (consumer, "0", 0))
            self._known.add(consumer)
        return [
            OutboxBatch(OutboxCursor(int(xid), int(row_id)), int(count), bytes(body))
            for xid, row_id, count, body in self._session.call("outbox_read", (consumer, limit))
        ]

    def advance(self, consumer: str, cursor: OutboxCursor) -> None:
        """Move the cursor; never back. StoreUnavailable if this session lost the consumer."""
        if not self.lead(consumer):
            raise StoreUnavailable(STORE, f"another process applies the events for {consumer}")
        self._session.call("outbox_advance", (consumer, str(cursor.xid), cursor.row_id))

    def refuse(self, consumer: str, batch: OutboxBatch, *, reason: str) -> None:
        """Set a batch aside that this consumer can never read; does not move the cursor."""
        xid, row_id = str(batch.cursor.xid), batch.cursor.row_id
        values = (consumer, xid, row_id, batch.event_count, reason, batch.body)
        self._session.run(_REFUSE, values)

    def unapplied(self, consumer: str, limit: int) -> Sequence[bytes]:
        """Return bodies the consumer has not applied, the unsettled too, oldest first.

        With what the consumer has applied they are everything that happened, so a reader of
        statistics misses nothing; some may be in both, with the same event ids.
        """
        found = self._session.call("outbox_unapplied", (consumer, limit))
        return [bytes(body) for _, _, _, body in found]

    def backlog(self, consumer: str) -> Backlog:
        """Return how far the consumer is behind."""
        ((batches, events, oldest_s),) = self._session.call("outbox_backlog", (consumer,))
        return Backlog(int(batches), int(events), float(oldest_s))

    def close(self) -> None:
        """Close the connection; locks are lost."""
        self._session.close()
