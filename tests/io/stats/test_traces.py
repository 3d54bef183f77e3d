"""What is known of recipients whose rows are gone, of many messages at once."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import psycopg2
import pytest

from mailcore.events import Event, EventKind
from mailcore.inbound import facts_of
from mailcore.ports import StoreUnavailable, Traces
from mailio.ledger import schema
from mailio.stats import open_statistics
from mailio.stats.traces import RecipientTraces, open_traces
from tests.io.stats.world import NOON_MS, as_row, body, event, message_id
from tests.support.stack import chdb_url, drop_postgres, postgres_url


@pytest.fixture(scope="module")
def urls() -> Iterator[tuple[str, str]]:
    statistics, database = chdb_url(), postgres_url()
    schema.migrate(database)
    store = open_statistics(statistics)
    store.migrate()
    store.close()
    yield statistics, database
    drop_postgres(database)


@pytest.fixture
def traces(urls: tuple[str, str]) -> Iterator[RecipientTraces]:
    traces = open_traces(*urls)
    yield traces
    traces.close()


def apply(urls: tuple[str, str], *events: Event) -> None:
    store = open_statistics(urls[0])
    store.insert([body(*events)])
    store.close()


def leave_in_outbox(url: str, *events: Event) -> None:
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO ledger_outbox (event_count, body) VALUES (%s, %s)",
            (len(events), body(*events)),
        )
    connection.close()


def of(traces: Traces, *events: Event) -> dict[tuple[str, int], Event]:
    return facts_of(traces.of_messages([UUID(one.message_id) for one in events]))


def test_events_of_many_messages_and_minutes_are_found_in_few_queries(
    traces: RecipientTraces, urls: tuple[str, str]
) -> None:
    events = [event(at_ms=NOON_MS + n * 60_000, custom=f"é{n}") for n in range(300)]
    apply(urls, *events, event())
    assert of(traces, *events) == {(one.message_id, 0): one for one in events}


def test_each_recipient_is_told_by_the_event_that_knows_the_most(
    traces: RecipientTraces, urls: tuple[str, str]
) -> None:
    one = message_id()
    accepted = [event(EventKind.ACCEPTED, message=one, recipient_no=n, claim_no=0) for n in (0, 1)]
    delivered = event(message=one, recipient_no=1, at_ms=NOON_MS + 3_600_000)
    apply(urls, *accepted)
    apply(urls, delivered, delivered)
    assert of(traces, delivered) == {(str(one), 0): accepted[0], (str(one), 1): delivered}


def test_what_the_statistics_do_not_have_yet_is_read_off_the_outbox(
    traces: RecipientTraces, urls: tuple[str, str]
) -> None:
    applied, fresh, other = event(), event(), event()
    apply(urls, applied)
    leave_in_outbox(urls[1], other, fresh)
    found = traces.of_messages([UUID(applied.message_id), UUID(fresh.message_id)])
    assert [dict(row) for row in found][-1] == as_row(fresh)
    assert of(traces, applied, fresh) == {(e.message_id, 0): e for e in (applied, fresh)}


def test_of_a_message_nobody_knows_nothing_is_found(traces: RecipientTraces) -> None:
    assert traces.of_messages([message_id()]) == []
    assert traces.of_messages([]) == []


def test_with_the_statistics_away_the_outbox_is_enough_or_it_is_said(
    urls: tuple[str, str],
) -> None:
    fresh = event()
    leave_in_outbox(urls[1], fresh)
    away = open_traces("clickhouse://127.0.0.1:1/none", urls[1])
    try:
        assert of(away, fresh) == {(fresh.message_id, 0): fresh}
        with pytest.raises(StoreUnavailable, match="clickhouse"):
            away.of_messages([UUID(fresh.message_id), message_id()])
    finally:
        away.close()
