"""What is inserted is there once, and roll-ups say what the events say, on every engine."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from mailcore.errors import SchemaError
from mailcore.events import Event, EventKind
from mailio.stats import ClickhouseStatistics, open_statistics
from mailio.stats.driver import Driver, Row
from mailio.stats.reports import Figures
from tests.io.stats.world import NOON, NOON_MS, as_row, body, event, full_event, message_id

T0 = datetime.fromtimestamp(NOON_MS / 1000, UTC)
MINUTE_MS = 60_000


@dataclass
class TouchingDriver:
    """A driver during whose roll-ups something happens."""

    real: Driver
    on_roll_up: Callable[[], None] | None = None

    def query(self, sql: str) -> list[Row]:
        return self.real.query(sql)

    def execute(self, sql: str) -> None:
        if self.on_roll_up is not None and "INSERT INTO roll_up " in sql:
            self.on_roll_up()
        self.real.execute(sql)

    def insert(self, table: str, lines: bytes, count: int) -> None:
        self.real.insert(table, lines, count)

    def create_database(self) -> None:
        self.real.create_database()

    def close(self) -> None:
        self.real.close()


def outcomes(statistics: ClickhouseStatistics, *by: str) -> dict[tuple[object, ...], int]:
    found = statistics.reports.outcomes(
        since=T0 - timedelta(days=2), until=T0 + timedelta(days=2), by=by or ("kind",)
    )
    return {figures.by: figures.events for figures in found}


def test_the_same_batch_twice_changes_no_count(statistics: ClickhouseStatistics) -> None:
    message = message_id()
    sent = [event() for _ in range(50)] + [event(EventKind.BOUNCED) for _ in range(7)]
    sent += [event(EventKind.ACCEPTED, message=message, recipient_no=n) for n in range(3)]
    bodies = [body(*sent[:20]), body(*sent[20:])]
    seen = []
    for _ in range(3):
        assert statistics.insert(bodies) == 60
        statistics.recompute([NOON])
        seen.append(
            (
                statistics.counts(),
                statistics.final_counts(campaign="spring"),
                outcomes(statistics),
                len(statistics.trace(message)),
            )
        )
    assert seen[0] == (
        {"delivered": 50, "bounced": 7, "accepted": 3},
        {"delivered": 50, "bounced": 7},
        {("accepted",): 3, ("bounced",): 7, ("delivered",): 50},
        3,
    )
    assert seen[1] == seen[0]
    assert seen[2] == seen[0]


def test_events_out_of_order_come_back_in_order(statistics: ClickhouseStatistics) -> None:
    message = message_id()
    history = [
        event(EventKind.ACCEPTED, message=message, claim_no=0, at_ms=NOON_MS),
        event(EventKind.DEFERRED, message=message, claim_no=1, at_ms=NOON_MS + 900),
        event(EventKind.DEFERRED, message=message, claim_no=2, at_ms=NOON_MS + 3_600_000),
        event(EventKind.DELIVERED, message=message, claim_no=3, at_ms=NOON_MS + 90_000_000),
    ]
    for one in (history[2], history[0], history[3], history[1], history[2]):
        statistics.insert([body(one, event())])
    assert statistics.trace(message) == [as_row(one) for one in history]
    assert statistics.trace(message_id()) == []


def test_every_field_comes_back_as_it_was_sent(statistics: ClickhouseStatistics) -> None:
    one = full_event()
    statistics.insert([body(one)])
    (row,) = statistics.trace(UUID(one.message_id))
    assert row == as_row(one)


def test_fields_left_out_are_empty_and_unknown_ones_are_passed_over(
    statistics: ClickhouseStatistics,
) -> None:
    message = message_id()
    line = {"event_id": "e" * 32, "occurred_ms": NOON_MS, "message_id": str(message), "mood": [1]}
    statistics.insert([b"E1" + zlib.compress(json.dumps(line).encode())])
    (row,) = statistics.trace(message)
    lean = Event("e" * 32, "", NOON_MS, str(message), 0, 0, 0)
    assert row == as_row(lean)


def test_a_late_event_changes_the_roll_up_of_its_old_minute(
    statistics: ClickhouseStatistics,
) -> None:
    old = NOON_MS - 26 * 3_600_000
    statistics.insert([body(event(at_ms=old)), body(event(), event())])
    statistics.recompute([old // MINUTE_MS, NOON])
    assert outcomes(statistics) == {("delivered",): 3}
    statistics.insert([body(event(EventKind.LATE_BOUNCED, at_ms=old + 10))])
    statistics.recompute([old // MINUTE_MS])
    assert outcomes(statistics) == {("delivered",): 3, ("late_bounced",): 1}


def test_what_an_event_was_before_it_was_sent_again_leaves_the_roll_up(
    statistics: ClickhouseStatistics,
) -> None:
    message = message_id()
    first = event(EventKind.BOUNCED, message=message, bounce_class="policy", reply_normal="no")
    again = event(EventKind.BOUNCED, message=message, bounce_class="mailbox_full")
    statistics.insert([body(first)])
    statistics.recompute([NOON, NOON + 1])
    assert outcomes(statistics, "bounce_class") == {("policy",): 1}
    statistics.insert([body(again)])
    statistics.recompute([NOON, NOON + 1])
    assert outcomes(statistics, "bounce_class") == {("mailbox_full",): 1}
    replies = statistics.reports.replies(since=T0, until=T0 + timedelta(minutes=1))
    assert replies == []


def test_a_touched_minute_waits_until_it_is_recomputed(statistics: ClickhouseStatistics) -> None:
    assert statistics.touched() == []
    statistics.touch([NOON + 1, NOON, NOON])
    statistics.touch([NOON])
    assert statistics.touched() == [NOON, NOON + 1]
    statistics.recompute([NOON])
    assert statistics.touched() == [NOON + 1]
    statistics.touch([NOON])
    statistics.recompute([NOON, NOON + 1, NOON + 2])
    assert statistics.touched() == []


def test_what_is_touched_while_it_is_computed_stays_touched(url: str) -> None:
    statistics = open_statistics(url)
    statistics.migrate()
    statistics.touch([NOON])
    driver = TouchingDriver(statistics._driver)
    driver.on_roll_up = lambda: statistics.touch([NOON])
    ClickhouseStatistics(driver).recompute([NOON])
    assert statistics.touched() == [NOON]
    # Also where nobody had touched the minute: an operator computes it again.
    statistics.recompute([NOON])
    ClickhouseStatistics(driver).recompute([NOON])
    assert statistics.touched() == [NOON]
    statistics.close()


def test_a_roll_up_that_began_earlier_does_not_win(url: str) -> None:
    statistics = open_statistics(url)
    statistics.migrate()
    statistics.insert([body(event())])
    statistics.touch([NOON])
    driver = TouchingDriver(statistics._driver)

    def another_process_goes_on() -> None:
        driver.on_roll_up = None
        statistics.insert([body(event())])
        statistics.touch([NOON])
        statistics.recompute([NOON])
        statistics._driver.execute(f"ALTER TABLE event DROP PARTITION {T0:%Y%m}")

    # What the first one computes no longer holds both events; it comes too late.
    driver.on_roll_up = another_process_goes_on
    ClickhouseStatistics(driver).recompute([NOON])
    assert outcomes(statistics) == {("delivered",): 2}
    statistics.close()


def test_a_recipient_counts_once_in_the_final_counts(statistics: ClickhouseStatistics) -> None:
    message = message_id()
    statistics.insert(
        [
            body(
                event(EventKind.DEFERRED, message=message),
                event(message=message, claim_no=2),
                event(message=message, claim_no=3),
                event(message=message, recipient_no=1),
                event(EventKind.EXPIRED, campaign="autumn"),
                event(EventKind.STOPPED, account_id=9),
            )
        ]
    )
    assert statistics.final_counts(campaign="spring") == {"delivered": 2, "stopped": 1}
    assert statistics.final_counts(campaign="spring", account_id=9) == {"stopped": 1}
    assert statistics.final_counts() == {"delivered": 2, "stopped": 1, "expired": 1}
    assert statistics.final_counts(campaign="winter") == {}


def test_recipients_are_told_by_kind_with_how_often(statistics: ClickhouseStatistics) -> None:
    message = message_id()
    told = [
        event(EventKind.DEFERRED, message=message),
        event(EventKind.DEFERRED, message=message, claim_no=2),
        event(EventKind.COMPLAINED, message=message),
        event(message=message),
        event(EventKind.COMPLAINED, campaign="autumn", recipient="bob@example.com"),
    ]
    statistics.insert([body(*told), body(*told)])
    assert sorted(statistics.recipients(campaign="spring", kinds=("deferred", "complained"))) == [
        ("complained", "ann@example.com", 1),
        ("deferred", "ann@example.com", 2),
    ]
    assert statistics.recipients(campaign="winter", kinds=("deferred",)) == []


def test_counts_keep_to_their_range_of_time(statistics: ClickhouseStatistics) -> None:
    statistics.insert([body(*(event(at_ms=NOON_MS + s * 1000) for s in (0, 59, 60, 119, 120)))])
    until = T0 + timedelta(seconds=120)
    assert statistics.counts(since=T0 + timedelta(seconds=59), until=until) == {"delivered": 3}
    assert statistics.counts(since=until) == {"delivered": 1}
    with pytest.raises(ValueError, match="no zone"):
        statistics.counts(since=until.replace(tzinfo=None))


def test_a_label_is_a_text_whatever_is_in_it(statistics: ClickhouseStatistics) -> None:
    label = "a' OR 1=1 --\\'\n✓"
    statistics.insert([body(event(campaign=label), event())])
    assert statistics.counts(campaign=label) == {"delivered": 1}
    assert statistics.counts(campaign="' OR 1=1 --") == {}


def test_a_body_that_can_never_be_stored_is_told_from_a_store_that_is_away(
    statistics: ClickhouseStatistics,
) -> None:
    for line in (b'{"event_id":"1","recipient_no":"many"}', b'{"event_id":', b"[1]"):
        with pytest.raises(SchemaError):
            statistics.insert([body(event()), b"E1" + zlib.compress(line)])
    with pytest.raises(SchemaError):
        statistics.insert([b"E9..."])
    assert statistics.insert([]) == 0
    assert statistics.insert([body()]) == 0
    statistics.insert([body(event(campaign="next"))])
    assert statistics.counts(campaign="next") == {"delivered": 1}


def test_reports_go_by_time_and_dimensions(statistics: ClickhouseStatistics) -> None:
    statistics.insert(
        [
            body(
                event(isp="A", tls_version="TLSv1.3"),
                event(isp="A", at_ms=NOON_MS + 59_999),
                event(isp="B", at_ms=NOON_MS + 61_000, claim_no=2),
                event(EventKind.DEFERRED, isp="B", at_ms=NOON_MS + 130_000),
            )
        ]
    )
    statistics.recompute(range(NOON, NOON + 3))
    found = statistics.reports.outcomes(
        since=T0,
        until=T0 + timedelta(minutes=3),
        by=("isp",),
        step=timedelta(minutes=2),
        where={"kind": "delivered"},
    )
    assert found == [
        Figures(T0, ("A",), 2, 2, 1, 2000, 500, 40),
        Figures(T0, ("B",), 1, 0, 0, 1000, 250, 20),
    ]
    with pytest.raises(ValueError, match="'reply' is no dimension"):
        statistics.reports.outcomes(since=T0, until=T0, by=("reply",))


def test_times_to_deliver_are_right_within_a_tenth(statistics: ClickhouseStatistics) -> None:
    sent = [event(queue_ms=ms, isp="AB"[ms % 2]) for ms in range(1, 1001)]
    slow = [event(EventKind.DEFERRED, queue_ms=10**9) for _ in range(10)]
    statistics.insert([body(*sent, *slow)])
    statistics.recompute([NOON])
    times = statistics.reports.delivery_times(since=T0, until=T0 + timedelta(minutes=1))
    assert times[()] == pytest.approx((500, 950, 990), rel=0.1)
    by_isp = statistics.reports.delivery_times(
        since=T0, until=T0 + timedelta(minutes=1), levels=(0.5,), by=("isp",)
    )
    assert sorted(by_isp) == [("A",), ("B",)]
    later = T0 + timedelta(hours=1)
    assert statistics.reports.delivery_times(since=later, until=later + timedelta(hours=1)) == {}


def test_what_servers_said_most_comes_first(statistics: ClickhouseStatistics) -> None:
    full: dict[str, Any] = {
        "reply_normal": "mailbox # full",
        "code": 452,
        "bounce_class": "mailbox_full",
    }
    gone: dict[str, Any] = {"reply_normal": "no such user", "code": 550, "isp": "Other"}
    statistics.insert([body(*(event(EventKind.DEFERRED, **full) for _ in range(3)))])
    statistics.insert([body(event(EventKind.BOUNCED, **gone), event())])
    statistics.recompute([NOON])
    statistics.recompute([NOON])
    said = statistics.reports.replies(since=T0, until=T0 + timedelta(minutes=1))
    assert [(r.reply, r.code, r.bounce_class, r.events) for r in said] == [
        ("mailbox # full", 452, "mailbox_full", 3),
        ("no such user", 550, "", 1),
    ]
    where = {"isp": "Other"}
    only = statistics.reports.replies(since=T0, until=T0 + timedelta(minutes=1), where=where)
    assert [r.reply for r in only] == ["no such user"]


def test_any_number_may_migrate_at_once(url: str) -> None:
    opened = [open_statistics(url) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        applied = list(threads.map(lambda each: each.migrate(), opened))
    assert "0001_base" in {step for steps in applied for step in steps}
    assert opened[0].migrate() == ()
    opened[1].insert([body(event())])
    assert opened[2].counts() == {"delivered": 1}
    for each in opened:
        each.close()


def test_threads_share_one_object(statistics: ClickhouseStatistics) -> None:
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda _: statistics.insert([body(event(), event())]), range(12)))
        found = list(threads.map(lambda _: statistics.counts(), range(12)))
    assert found == [{"delivered": 24}] * 12
