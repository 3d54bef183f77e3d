"""From the outbox to statistics and stop lists, on the real stores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest

from mailcore.events import Event, EventKind, encode_lines
from mailcore.ports import OutboxBatch, OutboxCursor, StoreUnavailable
from mailio.ledger.outbox import PgOutbox
from mailio.stats import ClickhouseStatistics, open_statistics
from mailio.stoplist import PgStopList
from tests.io.ledger import world
from tests.io.stats.world import NOON_MS, event
from tests.support.reporting import reporter
from tests.support.stack import chdb_url
from workers.engines.apply_events import ApplyPorts, apply
from workers.engines.roll_up import roll_up

NOON = datetime.fromtimestamp(NOON_MS / 1000, UTC)


@dataclass
class CrashingOutbox:
    """The outbox of a process that dies just before its cursor moves."""

    real: PgOutbox

    def lead(self, consumer: str) -> bool:
        return self.real.lead(consumer)

    def release(self, consumer: str) -> None:
        self.real.release(consumer)

    def read(self, consumer: str, *, limit: int) -> Sequence[OutboxBatch]:
        return self.real.read(consumer, limit=limit)

    def advance(self, consumer: str, cursor: OutboxCursor) -> None:
        raise StoreUnavailable("postgresql", "this process dies here")

    def refuse(self, consumer: str, batch: OutboxBatch, *, reason: str) -> None:
        self.real.refuse(consumer, batch, reason=reason)


@dataclass
class Stores:
    outbox: PgOutbox
    statistics: ClickhouseStatistics
    stop_list: PgStopList

    def ports(self, outbox: PgOutbox | CrashingOutbox) -> ApplyPorts:
        return ApplyPorts(outbox, self.statistics, self.stop_list, reporter())

    def seen(self) -> tuple[object, ...]:
        hour = timedelta(hours=1)
        rolled_up = self.statistics.reports.outcomes(since=NOON - hour, until=NOON + hour)
        return (
            self.statistics.counts(),
            self.statistics.final_counts(),
            {figures.by: figures.events for figures in rolled_up},
            world.query("SELECT account_id, reason FROM stop_entry ORDER BY 1"),
        )


@pytest.fixture
def stores() -> Iterator[Stores]:
    dsn = world.empty()
    world.query("TRUNCATE ledger_outbox_refused")
    opened = Stores(PgOutbox(dsn), open_statistics(chdb_url()), PgStopList(dsn))
    opened.statistics.migrate()
    yield opened
    opened.outbox.close()
    opened.statistics.close()
    opened.stop_list.close()


def put(body: bytes, count: int) -> None:
    world.query(
        "INSERT INTO ledger_outbox (event_count, body) VALUES (%s, %s) RETURNING id",
        count,
        psycopg2.Binary(body),
    )


def put_events(*events: Event) -> None:
    put(encode_lines(events), len(events))


def test_a_crash_between_insert_and_cursor_changes_no_count(stores: Stores) -> None:
    gone: dict[str, Any] = {"bounce_type": "hard", "bounce_class": "invalid_recipient"}
    put_events(event(EventKind.ACCEPTED), event(), event(at_ms=NOON_MS + 61_000))
    put_events(event(EventKind.BOUNCED, account_id=3, **gone))
    for consumer in ("statistics", "stop_list"):
        assert apply(consumer, stores.ports(CrashingOutbox(stores.outbox))) == 0
    assert roll_up(stores.statistics) == 2
    seen = stores.seen()
    assert seen == (
        {"accepted": 1, "delivered": 2, "bounced": 1},
        {"delivered": 2, "bounced": 1},
        {("accepted",): 1, ("bounced",): 1, ("delivered",): 2},
        [(3, "hard_bounce")],
    )
    for consumer in ("statistics", "stop_list"):
        assert apply(consumer, stores.ports(stores.outbox)) == 4
        assert apply(consumer, stores.ports(stores.outbox)) == 0
    assert stores.statistics.touched() == []
    assert stores.seen() == seen


def test_a_batch_nobody_can_read_is_kept_beside_the_outbox(stores: Stores) -> None:
    put_events(event())
    put(b"E7 from the future", 5)
    put_events(event())
    assert apply("statistics", stores.ports(CrashingOutbox(stores.outbox))) == 0
    assert apply("statistics", stores.ports(stores.outbox)) == 7
    assert stores.statistics.counts() == {"delivered": 2}
    kept = world.query("SELECT consumer, event_count, reason, body FROM ledger_outbox_refused")
    ((consumer, count, reason, body),) = kept
    assert (consumer, count, bytes(body)) == ("statistics", 5, b"E7 from the future")
    assert "version b'E7'" in reason


def test_an_emptied_store_is_filled_again_from_what_the_outbox_keeps(stores: Stores) -> None:
    put_events(event(), event(EventKind.EXPIRED))
    assert apply("statistics", stores.ports(stores.outbox)) == 2
    before = stores.statistics.counts()
    again = open_statistics(chdb_url())
    again.migrate()
    world.query("DELETE FROM ledger_cursor WHERE consumer = 'statistics' RETURNING 1")
    assert apply("statistics", ApplyPorts(stores.outbox, again, stores.stop_list, reporter())) == 2
    assert again.counts() == before
    again.close()
