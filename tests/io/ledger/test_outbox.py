"""The outbox: every consumer sees every batch once, whatever the order of commits."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg2
import pytest

from mailcore.ports import Outbox, OutboxCursor, StoreUnavailable
from mailio.ledger.outbox import PgOutbox
from tests.io.ledger import world
from tests.io.ledger.world import query


@pytest.fixture
def outbox(dsn: str) -> Iterator[PgOutbox]:
    side = PgOutbox(dsn)
    yield side
    side.close()


def write(body: str, connection: psycopg2.extensions.connection | None = None) -> None:
    """Add a batch; on a given connection it stays uncommitted."""
    sql = "INSERT INTO ledger_outbox (event_count, body) VALUES (1, %s)"
    if connection is None:
        query(sql, body.encode())
    else:
        with connection.cursor() as cursor:
            cursor.execute(sql, (body.encode(),))


def read_on(outbox: PgOutbox, consumer: str, limit: int = 100) -> list[str]:
    """Read what is settled and move the cursor behind it."""
    batches = outbox.read(consumer, limit=limit)
    if batches:
        outbox.advance(consumer, batches[-1].cursor)
    return [batch.body.decode() for batch in batches]


def test_it_is_the_outbox_the_tasks_ask_for(outbox: PgOutbox) -> None:
    port: Outbox = outbox
    assert port.read("statistics", limit=5) == []


def test_batches_come_in_order_once_for_each_consumer(outbox: PgOutbox) -> None:
    for name in "abc":
        write(name)
    assert read_on(outbox, "one", limit=2) == ["a", "b"]
    assert read_on(outbox, "one") == ["c"]
    assert read_on(outbox, "one") == []
    assert read_on(outbox, "two") == ["a", "b", "c"]


def test_a_batch_behind_an_open_transaction_waits_for_it(outbox: PgOutbox) -> None:
    early = psycopg2.connect(world.ledger_url())
    write("early", early)  # has its number, and is not committed
    write("late")
    assert read_on(outbox, "c") == []
    assert [bytes(body) for body in outbox.unapplied("c", 10)] == [b"late"]
    early.commit()
    early.close()
    assert read_on(outbox, "c") == ["early", "late"]
    assert outbox.unapplied("c", 10) == []


def test_transaction_numbers_are_ordered_as_numbers(outbox: PgOutbox) -> None:
    for xid, body in ((9, "nine"), (10, "ten"), (100, "hundred")):
        query(
            "INSERT INTO ledger_outbox (xid, event_count, body) VALUES (%s::text::xid8, 1, %s)",
            str(xid),
            body.encode(),
        )
    assert [read_on(outbox, "c", limit=1) for _ in range(4)] == [["nine"], ["ten"], ["hundred"], []]


def test_many_writers_committing_out_of_order_are_each_seen_once(outbox: PgOutbox) -> None:
    def work(writer: int) -> int:
        rng = random.Random(writer)
        connections = [psycopg2.connect(world.ledger_url()) for _ in range(3)]
        for number in range(0, 60, 3):
            for offset, connection in enumerate(connections):
                write(f"{writer}-{number + offset}", connection)
            for connection in rng.sample(connections, k=3):
                connection.commit()
        for connection in connections:
            connection.close()
        return 60

    seen: list[str] = []
    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(work, writer) for writer in range(4)]
        while not all(future.done() for future in futures):
            seen += read_on(outbox, "c", limit=7)
        assert sum(future.result() for future in futures) == 240
    while more := read_on(outbox, "c"):
        seen += more
    assert sorted(seen) == sorted(f"{writer}-{n}" for writer in range(4) for n in range(60))


def test_a_cursor_never_goes_back(outbox: PgOutbox) -> None:
    write("a")
    (batch,) = outbox.read("c", limit=5)
    outbox.advance("c", batch.cursor)
    outbox.advance("c", OutboxCursor(1, 1))
    assert outbox.read("c", limit=5) == []


def test_one_process_applies_and_another_cannot_move_its_cursor(dsn: str, outbox: PgOutbox) -> None:
    other = PgOutbox(dsn)
    assert outbox.lead("c")
    assert outbox.lead("c")
    assert not other.lead("c")
    assert other.lead("d")
    with pytest.raises(StoreUnavailable, match="another process applies"):
        other.advance("c", OutboxCursor(5, 5))
    outbox.release("c")
    outbox.release("c")
    assert other.lead("c")
    other.close()


def test_the_backlog_is_told_in_batches_events_and_age(outbox: PgOutbox) -> None:
    write("a")
    write("b")
    backlog = outbox.backlog("c")
    assert (backlog.batches, backlog.events) == (2, 2)
    assert backlog.oldest_s >= 0
    read_on(outbox, "c")
    assert outbox.backlog("c").batches == 0
