"""Thousands of reports in a real mailbox, and the process that reads them is killed midway."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from typing import Any

import psycopg2
import pytest

from mailcore.events import Event, decode_lines, encode_lines
from mailio.ledger import schema
from mailio.stats import open_statistics
from tests.support.poll_once import Job, start
from tests.support.reports import bounce, complaint, delivered
from tests.support.services import Dovecot
from tests.support.stack import chdb_url, drop_postgres, postgres_url

MESSAGES = 5000
# A row a day, and midnight may have come between.
TALLY = "SELECT kind, fate, sum(messages) FROM mailbox_tally GROUP BY 1, 2 ORDER BY 1"
LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
KILLED_AFTER = 17  # batches of 100: in the middle of the second session


@pytest.mark.kill
def test_every_report_of_thousands_is_counted_once_though_its_reader_was_killed(
    dovecot: Dovecot,
) -> None:
    database, statistics = postgres_url(), chdb_url()
    schema.migrate(database)
    events = [delivered(number) for number in range(MESSAGES)]
    store = open_statistics(statistics)
    store.migrate()
    store.insert([encode_lines(events)])
    store.close()
    password = dovecot.add_user("thousands")
    # Every tenth is a complaint, and a hundred bounces come twice.
    dovecot.deliver(
        "thousands",
        *(complaint(e) if n % 10 == 0 else bounce(e) for n, e in enumerate(events)),
        *(bounce(event) for event in events[1:1001:10]),
    )
    job = Job(
        database,
        statistics,
        dovecot.pop3s_port,
        "thousands",
        password,
        str(dovecot.certificate),
        sitting=1000,
    )
    first = start(job)
    assert first.stdout is not None
    for _ in range(KILLED_AFTER):
        assert first.stdout.readline() == "recorded\n"
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    first.stdout.close()
    while query(database, LOCKS) != [(0,)]:  # the server has yet to notice
        threading.Event().wait(0.02)
    left = len(list(dovecot.maildir("thousands").glob("*/*")))
    assert left == MESSAGES + 100 - 1000  # of the first session alone the messages are gone

    second = start(job)
    said, _ = second.communicate()
    assert second.returncode == 0
    word, count, _ = said.splitlines()[-1].split()
    assert (word, int(count)) == ("done", MESSAGES + 100 - KILLED_AFTER * 100)

    told = outbox(database)
    assert Counter(event.kind for event in told) == {"late_bounced": 4500, "complained": 500}
    assert len({event.event_id for event in told}) == MESSAGES
    assert {event.message_id for event in told} == {event.message_id for event in events}
    assert query(database, TALLY) == [
        ("bounce", "told", 4600),
        ("complaint", "told", 500),
    ]
    assert query(database, "SELECT count(*) FROM mailbox_seen") == [(0,)]
    assert list(dovecot.maildir("thousands").glob("*/*")) == []
    drop_postgres(database)


def outbox(url: str) -> list[Event]:
    rows = query(url, "SELECT body FROM ledger_outbox ORDER BY id")
    return [event for (body,) in rows for event in decode_lines(bytes(body))]


def query(url: str, sql: str) -> list[tuple[Any, ...]]:
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()
    finally:
        connection.close()
