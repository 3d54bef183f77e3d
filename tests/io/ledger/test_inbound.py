"""Mailboxes in the ledger: each report is counted once, whatever is repeated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import psycopg2
import pytest

from mailcore.events import Event, decode_lines
from mailcore.ports import InboundLedger, InboundRecord, Seen, SeenState, StoreUnavailable
from mailio.ledger.inbound import PgInbound
from tests.io.ledger.world import query
from tests.support.fleet import eventually

EVENT = Event("e1", "late_bounced", 60_000, "", 0, 0, 7, recipient="ann@peer.test")
DONE = InboundRecord("u1", "bounce", "told")


@pytest.fixture
def side(dsn: str) -> Iterator[PgInbound]:
    query("TRUNCATE mailbox_poll, mailbox_seen, mailbox_tally, inbound_event")
    side = PgInbound(dsn)
    yield side
    side.close()


def told() -> list[str]:
    """Return the ids of the events in the outbox, in order."""
    rows = query("SELECT body FROM ledger_outbox ORDER BY id")
    return [event.event_id for (body,) in rows for event in decode_lines(bytes(body))]


def tally() -> dict[tuple[str, str], int]:
    rows = query("SELECT kind, fate, messages FROM mailbox_tally WHERE mailbox_id = 1")
    return {(kind, fate): count for kind, fate, count in rows}


def test_it_is_the_bookkeeping_the_poller_asks_for(side: PgInbound) -> None:
    port: InboundLedger = side
    assert port.seen(1, ["u1"]) == {}


def test_a_message_and_its_event_are_noted_together(side: PgInbound) -> None:
    assert side.record(1, [DONE], [EVENT]) == 1
    assert told() == ["e1"]
    assert side.seen(1, ["u1", "u2"]) == {"u1": Seen(SeenState.DONE, 1)}
    assert tally() == {("bounce", "told"): 1}


def test_the_same_batch_again_changes_nothing(side: PgInbound) -> None:
    for expected in (1, 0, 0):
        assert side.record(1, [DONE], [EVENT]) == expected
    assert told() == ["e1"]
    assert tally() == {("bounce", "told"): 1}


def test_the_same_event_of_another_message_or_mailbox_is_not_told_again(side: PgInbound) -> None:
    side.record(1, [DONE], [EVENT])
    assert side.record(1, [replace(DONE, uidl="u2")], [replace(EVENT, occurred_ms=999)]) == 0
    assert side.record(2, [DONE], [EVENT]) == 0
    assert side.record(1, [replace(DONE, uidl="u3")], [EVENT, replace(EVENT, event_id="e2")]) == 1
    assert told() == ["e1", "e2"]
    assert tally() == {("bounce", "told"): 3}


def test_what_is_told_twice_in_one_batch_is_told_once(side: PgInbound) -> None:
    records = [DONE, replace(DONE, uidl="u2")]
    assert side.record(1, records, [EVENT, replace(EVENT, reply="other")]) == 1
    assert told() == ["e1"]
    assert tally() == {("bounce", "told"): 2}


def test_a_message_without_an_event_is_counted_and_told_to_nobody(side: PgInbound) -> None:
    side.record(1, [InboundRecord("u1", "delay", "noted")], [])
    assert tally() == {("delay", "noted"): 1}
    assert query("SELECT count(*) FROM ledger_outbox") == [(0,)]


def test_a_postponed_message_is_due_after_its_time_and_counted_at_its_end(
    side: PgInbound,
) -> None:
    side.record(1, [InboundRecord("u1", "bounce", "postponed", 3600.0)], [])
    assert side.seen(1, ["u1"]) == {"u1": Seen(SeenState.WAITING, 1)}
    side.record(1, [InboundRecord("u1", "bounce", "postponed", 0.0)], [])
    assert side.seen(1, ["u1"]) == {"u1": Seen(SeenState.DUE, 2)}
    assert tally() == {}
    side.record(1, [DONE], [EVENT])
    assert side.seen(1, ["u1"]) == {"u1": Seen(SeenState.DONE, 3)}
    assert tally() == {("bounce", "told"): 1}


def test_a_transaction_that_fails_half_way_leaves_nothing(side: PgInbound) -> None:
    query("ALTER TABLE mailbox_tally ADD CONSTRAINT stop CHECK (kind <> 'bounce')")
    try:
        with pytest.raises(psycopg2.Error):
            side.record(1, [DONE], [EVENT])
    finally:
        query("ALTER TABLE mailbox_tally DROP CONSTRAINT stop")
    assert told() == []
    assert side.seen(1, ["u1"]) == {}
    assert side.record(1, [DONE], [EVENT]) == 1


def test_a_deleted_message_is_forgotten_and_its_event_is_not(side: PgInbound) -> None:
    side.record(1, [DONE], [EVENT])
    side.forget(1, ["u1"])
    side.forget(1, [])
    assert side.seen(1, ["u1"]) == {}
    assert side.record(1, [DONE], [EVENT]) == 0


def test_one_process_reads_a_mailbox_at_a_time(side: PgInbound, dsn: str) -> None:
    other = PgInbound(dsn)
    try:
        assert side.begin(1, node="n1")
        assert not other.begin(1, node="n2")
        assert not side.begin(1, node="n1")  # nor another thread of this one
        assert other.begin(2, node="n2")
        with pytest.raises(StoreUnavailable, match="another process reads mailbox 1"):
            other.record(1, [DONE], [EVENT])
        side.end(1, next_in_s=0, read=5, error="")
        assert other.begin(1, node="n2")
    finally:
        other.close()
    # The lock of a process that is gone is free, as soon as PostgreSQL has noticed.
    eventually(lambda: side.begin(1, node="n1"))


def test_a_mailbox_is_due_again_after_its_interval_and_tells_what_went_wrong(
    side: PgInbound,
) -> None:
    assert side.begin(1, node="n1")
    side.end(1, next_in_s=3600, read=3, error="pop.example.com refused the login")
    assert not side.begin(1, node="n1")
    assert query("SELECT node, read_count, error FROM mailbox_poll") == [
        ("n1", 3, "pop.example.com refused the login")
    ]
    query("UPDATE mailbox_poll SET next_at = statement_timestamp()")
    assert side.begin(1, node="n1")
    side.abandon(1)
    assert side.begin(1, node="n1")


def test_what_is_old_is_pruned(side: PgInbound) -> None:
    side.record(1, [DONE, replace(DONE, uidl="u2")], [EVENT, replace(EVENT, event_id="e2")])
    query("UPDATE mailbox_seen SET listed_at = now() - interval '31 days' WHERE uidl = 'u1'")
    query("UPDATE inbound_event SET told_at = now() - interval '91 days' WHERE event_id = 'e1'")
    side.prune()
    assert query("SELECT uidl FROM mailbox_seen") == [("u2",)]
    assert query("SELECT event_id FROM inbound_event") == [("e2",)]


def test_what_is_still_listed_does_not_get_old(side: PgInbound) -> None:
    side.record(1, [DONE], [])
    query("UPDATE mailbox_seen SET listed_at = now() - interval '31 days'")
    assert side.seen(1, ["u1"]) == {"u1": Seen(SeenState.DONE, 1)}
    side.prune()
    assert query("SELECT uidl FROM mailbox_seen") == [("u1",)]


def test_the_database_away_is_named_and_nothing_is_held() -> None:
    side = PgInbound("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(StoreUnavailable, match="postgresql"):
        side.begin(1, node="n1")
    side.abandon(1)
    side.close()
