"""The bookkeeping of mailboxes, in the same transaction as the events they lead to.

Gives    PgInbound, which implements mailcore.ports.InboundLedger
Takes    a libpq URL
Raises   StoreUnavailable
Follows  style.md rule 7: a message is deleted only when what it told is committed, and a message
         that is read again tells nothing new

One lock a mailbox, held by a session: two nodes never read the same one, and a process that dies
lets go of it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress

import psycopg2

from mailcore.events import Event, encode_lines
from mailcore.ports import InboundRecord, Seen, SeenState, StoreUnavailable
from mailio.ledger import arrays
from mailio.ledger.leader import Leadership
from mailio.ledger.pool import STORE, Profile, Session

# How long the same event is known, and how long a message that is in no listing.
EVENTS_KEPT_S = 90 * 86400.0
SEEN_KEPT_S = 30 * 86400.0
_MAX_ERROR = 500

_BEGIN = """
INSERT INTO mailbox_poll AS p (mailbox_id, node, begun_at)
VALUES ($1::int, $2::text, statement_timestamp())
ON CONFLICT (mailbox_id) DO UPDATE SET node = excluded.node, begun_at = excluded.begun_at
 WHERE p.next_at <= statement_timestamp()
RETURNING 1
"""

_END = """
UPDATE mailbox_poll
   SET ended_at = statement_timestamp(), read_count = $3::int, error = $4::text,
       next_at = statement_timestamp() + $2::float8 * interval '1 second'
 WHERE mailbox_id = $1::int
"""

# A day's grain is enough to tell what is still listed, and spares most of the writes.
_SEEN = """
WITH listed AS (
    UPDATE mailbox_seen SET listed_at = statement_timestamp()
     WHERE mailbox_id = $1::int AND uidl = ANY ($2::text[])
       AND listed_at < statement_timestamp() - interval '1 day')
SELECT uidl, is_done, tries, due_at <= statement_timestamp()
  FROM mailbox_seen WHERE mailbox_id = $1::int AND uidl = ANY ($2::text[])
"""

_NEW_EVENTS = """
INSERT INTO inbound_event (event_id)
SELECT e FROM unnest($1::text[]) AS e ORDER BY e
ON CONFLICT DO NOTHING RETURNING event_id
"""

# A message is counted when it is done, and only the first time.
_RECORD = """
WITH given AS (
    SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::float8[])
        AS g (uidl, kind, fate, postponed_s)
), noted AS (
    INSERT INTO mailbox_seen AS s (mailbox_id, uidl, is_done, due_at)
    SELECT $1::int, uidl, postponed_s IS NULL,
           COALESCE(statement_timestamp() + postponed_s * interval '1 second', 'infinity')
      FROM given ORDER BY uidl
    ON CONFLICT (mailbox_id, uidl) DO UPDATE
       SET is_done = excluded.is_done, due_at = excluded.due_at, tries = s.tries + 1
     WHERE NOT s.is_done
    RETURNING uidl, is_done
), told AS (
    INSERT INTO ledger_outbox (event_count, body)
    SELECT $6::int, $7::bytea WHERE $6::int > 0)
INSERT INTO mailbox_tally AS t (mailbox_id, day, kind, fate, messages)
SELECT $1::int, (statement_timestamp() AT TIME ZONE 'UTC')::date, kind, fate, count(*)
  FROM given JOIN noted USING (uidl) WHERE is_done
 GROUP BY kind, fate ORDER BY kind, fate
ON CONFLICT (mailbox_id, day, kind, fate) DO UPDATE SET messages = t.messages + excluded.messages
"""

_FORGET = "DELETE FROM mailbox_seen WHERE mailbox_id = $1::int AND uidl = ANY ($2::text[])"

_PRUNE_SEEN = """
DELETE FROM mailbox_seen WHERE listed_at < statement_timestamp() - $1::float8 * interval '1 second'
"""
_PRUNE_EVENTS = """
DELETE FROM inbound_event WHERE told_at < statement_timestamp() - $1::float8 * interval '1 second'
"""

STATEMENTS = {
    "inbound_begin": _BEGIN,
    "inbound_end": _END,
    "inbound_seen": _SEEN,
    "inbound_new_events": _NEW_EVENTS,
    "inbound_record": _RECORD,
    "inbound_forget": _FORGET,
    "inbound_prune_seen": _PRUNE_SEEN,
    "inbound_prune_events": _PRUNE_EVENTS,
}


class PgInbound:
    """The mailboxes' side of the ledger. Thread-safe; locks and writes share a session."""

    def __init__(self, dsn: str, *, statement_timeout_s: float = 30.0) -> None:
        self._session = Session(
            dsn,
            role="inbound",
            profile=Profile.HOT,
            statements=STATEMENTS,
            statement_timeout_s=statement_timeout_s,
        )
        self._leads = Leadership(self._session)
        self._guard = threading.Lock()
        self._taken: set[int] = set()

    def begin(self, mailbox_id: int, *, node: str) -> bool:
        """Take a mailbox that is due; False if it is not, or if somebody else reads it."""
        with self._guard:
            # The lock is the session's: within this process the set keeps threads apart.
            if mailbox_id in self._taken or not self._leads.take(_role(mailbox_id)):
                return False
            if not self._session.call("inbound_begin", (mailbox_id, node)):
                self._leads.release(_role(mailbox_id))
                return False
            self._taken.add(mailbox_id)
            return True

    def end(self, mailbox_id: int, *, next_in_s: float, read: int, error: str) -> None:
        """Give it back, due again after `next_in_s`."""
        with self._guard:
            self._taken.discard(mailbox_id)
            text = arrays.clean(error[:_MAX_ERROR])
            self._session.call("inbound_end", (mailbox_id, max(next_in_s, 0.0), read, text))
            self._leads.release(_role(mailbox_id))

    def abandon(self, mailbox_id: int) -> None:
        """Let go of it without a word: what cannot be released ends with the connection."""
        with self._guard:
            self._taken.discard(mailbox_id)
            with suppress(StoreUnavailable):
                self._leads.release(_role(mailbox_id))

    def seen(self, mailbox_id: int, uidls: Sequence[str]) -> Mapping[str, Seen]:
        """Return those that were read before."""
        rows = self._session.call("inbound_seen", (mailbox_id, arrays.texts(uidls)))
        return {uidl: Seen(_state(done, due), int(tries)) for uidl, done, tries, due in rows}

    def record(
        self, mailbox_id: int, records: Sequence[InboundRecord], events: Sequence[Event]
    ) -> int:
        """Note messages, count them and tell their events in one transaction; return how many
        events are new. A message must not be given twice."""
        if not self._leads.take(_role(mailbox_id)):
            raise StoreUnavailable(STORE, f"another process reads mailbox {mailbox_id}")
        distinct = {event.event_id: event for event in events}
        with self._session.transaction() as execute:
            new = []
            if distinct:
                rows = execute("EXECUTE inbound_new_events (%s)", (arrays.texts(sorted(distinct)),))
                new = [distinct[str(row[0])] for row in rows]
            execute(
                "EXECUTE inbound_record (%s,%s,%s,%s,%s,%s,%s)",
                (
                    mailbox_id,
                    arrays.texts([each.uidl for each in records]),
                    arrays.texts([each.kind for each in records]),
                    arrays.texts([each.fate for each in records]),
                    arrays.numbers([each.postponed_s for each in records]),
                    len(new),
                    psycopg2.Binary(encode_lines(new) if new else b""),
                ),
            )
        return len(new)

    def forget(self, mailbox_id: int, uidls: Sequence[str]) -> None:
        """Drop what is noted of messages that are deleted."""
        if uidls:
            self._session.call("inbound_forget", (mailbox_id, arrays.texts(uidls)))

    def prune(self) -> None:
        """Drop what is too old to come again."""
        self._session.call("inbound_prune_seen", (SEEN_KEPT_S,))
        self._session.call("inbound_prune_events", (EVENTS_KEPT_S,))

    def close(self) -> None:
        """Close the connection; locks are lost."""
        self._session.close()


def _role(mailbox_id: int) -> str:
    return f"mailbox:{mailbox_id}"


def _state(is_done: bool, is_due: bool) -> SeenState:
    if is_done:
        return SeenState.DONE
    return SeenState.DUE if is_due else SeenState.WAITING
