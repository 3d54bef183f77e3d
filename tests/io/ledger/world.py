"""A ledger on a real PostgreSQL, and short words for what tests do with it."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any

import psycopg2

from mailcore.envelope import ContentRef, QueuedRow, uuid7
from mailcore.holds import HoldScope
from mailcore.outcome import MailClass, RowState, WaitReason
from mailcore.ports import Defer, Finish, LaneClaim, Settlement
from mailio.ledger import schema
from mailio.ledger.accept import (
    AcceptBatch,
    AcceptMessage,
    Acceptor,
    AcceptRecipient,
    AcceptResult,
    EventBody,
    IdempotencyKey,
)
from mailio.ledger.delivery import PgLedger
from tests.support.stack import postgres_url

TABLES = (
    "campaign, ledger_route, ledger_lane, ledger_incarnation, ledger_row, ledger_outbox, "
    "ledger_cursor, ledger_idempotency, stop_entry, queue_hold, queue_undo, "
    "ledger_restore, ledger_witness"
)

# The real counts of every lane beside the kept ones; next_due_at may be early, never late.
DISAGREEMENTS = """
SELECT l.id, l.waiting, l.leased, l.unknown, l.next_due_at::text, c.*
  FROM ledger_lane l
 CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE state = 0) AS w, count(*) FILTER (WHERE state = 1) AS l,
           count(*) FILTER (WHERE state = 2) AS u,
           COALESCE(min(due_at) FILTER (WHERE state = 0), 'infinity')::text AS due
      FROM ledger_row r WHERE r.lane_id = l.id) AS c
 WHERE (l.waiting, l.leased, l.unknown) <> (c.w, c.l, c.u)
    OR l.next_due_at > c.due::timestamptz
"""

WAITERS = """
SELECT count(*) FROM pg_stat_activity
 WHERE wait_event_type = 'Lock' AND datname = current_database()
"""


@functools.cache
def ledger_url() -> str:
    """Return one migrated database for the whole run."""
    url = postgres_url()
    schema.migrate(url)
    return url


def query(sql: str, *params: object) -> list[tuple[Any, ...]]:
    """Run one statement on a connection of its own."""
    connection = psycopg2.connect(ledger_url())
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql, params or None)
            return cursor.fetchall() if cursor.description is not None else []
    finally:
        connection.close()


def empty() -> str:
    """Empty the ledger and return its URL."""
    query(f"TRUNCATE {TABLES} RESTART IDENTITY")
    return ledger_url()


def assert_counts_agree() -> None:
    """Every lane counts what it has, and no lane would be looked at too late."""
    assert query(DISAGREEMENTS) == []


def hold(
    scope: HoldScope, *, target_id: int = 0, target: str = "", ends_in_s: float | None = None
) -> int:
    """Place a hold, as the control plane does; return its number."""
    found = query(
        "INSERT INTO queue_hold (scope, target_id, target, reason, author, ends_at)"
        " VALUES (%s, %s, %s, 'why', 'ann', now() + make_interval(secs => %s)) RETURNING id",
        *(scope.value, target_id, target, ends_in_s),
    )
    return int(found[0][0])


def hold_domain(domain: str = "one.test", *, ends_in_s: float | None = None) -> int:
    """Hold a recipient domain; return the hold's number."""
    return hold(HoldScope.DOMAIN, target=domain, ends_in_s=ends_in_s)


def release(number: int) -> None:
    """End a hold."""
    query("UPDATE queue_hold SET released_at = now(), released_by = 'ann' WHERE id = %s", number)


class Held:
    """Rows locked by a transaction of the test's own, until it lets go."""

    def __init__(self, sql: str) -> None:
        self._connection = psycopg2.connect(ledger_url())
        with self._connection.cursor() as cursor:
            cursor.execute(sql)

    async def until_waited_for(self, count: int) -> None:
        """Wait until this many sessions wait for a lock."""
        while query(WAITERS) < [(count,)]:
            await asyncio.sleep(0.005)

    def release(self) -> None:
        """Let go."""
        self._connection.rollback()
        self._connection.close()


def message(
    *recipients: str,
    site: str | None = None,
    account_id: int = 1,
    sender_id: int = 1,
    key: IdempotencyKey | None = None,
    **fields: Any,
) -> AcceptMessage:
    """Build a message; each recipient's site is `mx.<domain>` unless given ("" is unrouted)."""
    people = recipients or ("ann@one.test",)
    domains = [person.rpartition("@")[2] for person in people]
    values: dict[str, Any] = {
        "message_id": uuid7(int(time.time() * 1000), os.urandom(10)),
        "account_id": account_id,
        "sender_id": sender_id,
        "mail_class": MailClass.MAIN,
        "header_from": "from.test",
        "reverse_path": "bounce@from.test",
        "content": ContentRef(4096, 0, 100, 7),
        "recipients": tuple(
            AcceptRecipient(n, person, domain, f"mx.{domain}" if site is None else site, 3)
            for n, (person, domain) in enumerate(zip(people, domains, strict=True))
        ),
        "lifetime_s": 3600.0,
        "message_id_header": "<1@from.test>",
        "idempotency": key,
    }
    return AcceptMessage(**values | fields)


def to_events(messages: Sequence[AcceptMessage]) -> EventBody:
    """Stand in for the encoder: the body names the messages."""
    return EventBody(
        b",".join(m.message_id.bytes for m in messages), sum(len(m.recipients) for m in messages)
    )


def accept(acceptor: Acceptor, *messages: AcceptMessage) -> AcceptResult:
    """Accept some messages as one batch."""
    return acceptor.accept(AcceptBatch(messages, to_events))


async def claim_all(ledger: PgLedger, incarnation: int, *, budget: int = 100) -> list[QueuedRow]:
    """Claim what is due on every lane."""
    lanes = await ledger.due_lanes(limit=10_000)
    requests = [LaneClaim(lane.id, budget) for lane in lanes]
    return list(await ledger.claim(requests, incarnation=incarnation))


def ends(rows: Iterable[QueuedRow]) -> Settlement:
    """Settle these as delivered."""
    finished = [Finish(row.id) for row in rows]
    return Settlement(finished, [], b"events", len(finished))


def waits(
    rows: Iterable[QueuedRow],
    *,
    delay_s: float = 0.0,
    reason: WaitReason = WaitReason.RETRY,
    state: RowState = RowState.WAITING,
    reply: str = "",
    counts_attempt: bool = True,
) -> Settlement:
    """Settle these as waiting (or unknown) again."""
    deferred = [
        Defer(
            row.id,
            row.claim_no,
            delay_s,
            reason,
            reply=reply,
            state=state,
            counts_attempt=counts_attempt,
        )
        for row in rows
    ]
    return Settlement([], deferred, b"events", len(deferred))
