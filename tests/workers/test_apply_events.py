"""Consumers of the outbox: what a crash repeats, what is set aside, what waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

import pytest

from mailcore.errors import SchemaError
from mailcore.events import Event, decode_lines, encode_lines
from mailcore.ports import OutboxBatch, OutboxCursor, StoreUnavailable
from mailcore.stoplist import StopEntry
from tests.support.reporting import MemoryReportDoor, reporter
from workers.engines import apply_events
from workers.engines.apply_events import ApplyPorts, apply
from workers.engines.roll_up import MINUTES_A_TURN, MINUTES_AT_ONCE, roll_up

EVENT = Event("", "delivered", 60_000, "", 0, 1, 7, recipient_hash="aa", recipient="a@example.com")
START = OutboxCursor(0, 0)


@dataclass
class MemoryOutbox:
    """An outbox of one consumer."""

    bodies: list[tuple[int, bytes]] = field(default_factory=list)
    cursor: OutboxCursor = START
    refused: list[tuple[int, str]] = field(default_factory=list)
    is_led: bool = False
    led_elsewhere: bool = False
    fails_to_advance: bool = False
    reads: int = 0

    def put(self, *events: Event) -> None:
        self.bodies.append((len(events), encode_lines(events)))

    def lead(self, consumer: str) -> bool:
        self.is_led = not self.led_elsewhere
        return self.is_led

    def release(self, consumer: str) -> None:
        self.is_led = False

    def read(self, consumer: str, *, limit: int) -> Sequence[OutboxBatch]:
        assert self.is_led
        self.reads += 1
        after = self.cursor.row_id
        return [
            OutboxBatch(OutboxCursor(1, number), count, body)
            for number, (count, body) in enumerate(self.bodies, start=1)
            if number > after
        ][:limit]

    def advance(self, consumer: str, cursor: OutboxCursor) -> None:
        assert self.is_led
        if self.fails_to_advance:
            raise StoreUnavailable("postgresql", "away")
        self.cursor = cursor

    def refuse(self, consumer: str, batch: OutboxBatch, *, reason: str) -> None:
        assert self.is_led
        self.refused.append((batch.cursor.row_id, reason))


@dataclass
class MemoryStatistics:
    """Events by their id, as the real store keeps them; notes what it was asked."""

    events: dict[str, Event] = field(default_factory=dict)
    inserts: list[int] = field(default_factory=list)
    recomputed: list[list[int]] = field(default_factory=list)
    waiting: set[int] = field(default_factory=set)
    is_away: bool = False
    on_insert: Callable[[], None] = lambda: None

    def insert(self, bodies: Sequence[bytes]) -> int:
        self.on_insert()
        if self.is_away:
            raise StoreUnavailable("clickhouse", "away")
        found = [event for body in bodies for event in decode_lines(body)]
        if any(event.code == 999_999 for event in found):
            raise SchemaError("code: it does not fit")
        self.inserts.append(len(found))
        self.events |= {event.event_id: event for event in found}
        return len(found)

    def touch(self, minutes: Sequence[int]) -> None:
        self.waiting.update(minutes)

    def touched(self) -> Sequence[int]:
        return sorted(self.waiting)

    def recompute(self, minutes: Sequence[int]) -> None:
        self.recomputed.append(list(minutes))
        self.waiting.difference_update(minutes)

    def trace(self, message_id: UUID) -> Sequence[dict[str, object]]:
        raise NotImplementedError


@dataclass
class MemoryStopList:
    entries: dict[tuple[int, str], StopEntry] = field(default_factory=dict)

    def add(self, entries: Sequence[StopEntry]) -> int:
        before = len(self.entries)
        for entry in entries:
            self.entries.setdefault((entry.account_id, entry.recipient_hash), entry)
        return len(self.entries) - before


@dataclass
class World:
    outbox: MemoryOutbox = field(default_factory=MemoryOutbox)
    statistics: MemoryStatistics = field(default_factory=MemoryStatistics)
    stop_list: MemoryStopList = field(default_factory=MemoryStopList)
    door: MemoryReportDoor = field(default_factory=MemoryReportDoor)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.ports = ApplyPorts(
            self.outbox,
            self.statistics,
            self.stop_list,
            reporter(self.door),
            monotonic=lambda: self.now,
        )

    def put(self, count: int, *, minute: int = 1) -> None:
        first = sum(n for n, _ in self.outbox.bodies)
        self.outbox.put(
            *(
                replace(EVENT, event_id=str(first + n), occurred_ms=minute * 60_000)
                for n in range(count)
            )
        )


@pytest.fixture
def world() -> World:
    return World()


def test_all_there_is_is_stored_in_one_insert_and_its_minutes_recomputed(world: World) -> None:
    world.put(3, minute=5)
    world.put(2, minute=7)
    assert apply("statistics", world.ports) == 5
    assert world.statistics.inserts == [5]
    assert world.statistics.recomputed == [[7, 5]]
    assert world.outbox.cursor == OutboxCursor(1, 2)
    assert not world.outbox.is_led
    assert apply("statistics", world.ports) == 0


def test_a_crash_before_the_cursor_moves_repeats_and_changes_nothing(world: World) -> None:
    world.put(3)
    world.outbox.fails_to_advance = True
    assert apply("statistics", world.ports) == 0
    assert world.outbox.cursor == START
    assert world.statistics.waiting == {1}
    seen = dict(world.statistics.events)
    world.outbox.fails_to_advance = False
    assert apply("statistics", world.ports) == 3
    assert world.statistics.inserts == [3, 3]
    assert world.statistics.events == seen
    assert world.statistics.recomputed == [[1]]


def test_a_minute_is_rolled_up_every_few_seconds_and_never_forgotten(world: World) -> None:
    for second in range(8):
        world.now = float(second)
        world.put(1)
        assert apply("statistics", world.ports) == 1
    assert world.statistics.recomputed == [[1], [1]]
    assert world.statistics.waiting == {1}
    # This process dies; another finds the minute noted.
    successor = ApplyPorts(world.outbox, world.statistics, world.stop_list, reporter())
    assert apply("statistics", successor) == 0
    assert world.statistics.recomputed == [[1], [1], [1]]
    assert world.statistics.waiting == set()


def test_an_insert_has_at_most_so_many_events_and_divides_no_batch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply_events, "MAX_EVENTS", 10)
    monkeypatch.setattr(apply_events, "MAX_BATCHES", 4)
    for count in (4, 4, 4, 25, 1, 9, 1):
        world.put(count)
    assert apply("statistics", world.ports) == 48
    assert world.statistics.inserts == [8, 4, 25, 10, 1]
    assert world.outbox.reads == 2


def test_it_ends_when_its_time_is_up_and_goes_on_with_the_next_bell(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply_events, "MAX_EVENTS", 10)
    for _ in range(5):
        world.put(10)

    def takes_two_seconds() -> None:
        world.now += 2

    world.statistics.on_insert = takes_two_seconds
    assert apply("statistics", world.ports) == 20
    assert world.outbox.cursor == OutboxCursor(1, 2)
    assert apply("statistics", world.ports, budget_s=60) == 30


def test_a_body_nobody_can_read_is_set_aside_and_the_others_go_on(world: World) -> None:
    world.put(2)
    world.outbox.bodies.append((1, b"E9 of a later version"))
    world.put(2)
    world.outbox.put(replace(EVENT, event_id="x", code=999_999))
    world.put(2)
    assert apply("statistics", world.ports) == 8
    assert [row for row, _ in world.outbox.refused] == [2, 4]
    assert "b'E9'" in world.outbox.refused[0][1]
    assert world.outbox.refused[1][1] == "code: it does not fit"
    assert len(world.statistics.events) == 6
    assert world.outbox.cursor == OutboxCursor(1, 5)
    assert apply("statistics", world.ports) == 0


def test_events_wait_while_a_store_is_away(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.put(2)
    world.statistics.is_away = True
    assert apply("statistics", world.ports) == 0
    assert [record.message for record in caplog.records] == ["events wait for a store"]
    assert world.outbox.cursor == START
    assert not world.outbox.is_led
    world.statistics.is_away = False
    assert apply("statistics", world.ports) == 2


def test_who_does_not_lead_does_nothing(world: World) -> None:
    world.put(1)
    world.outbox.led_elsewhere = True
    assert apply("statistics", world.ports) == 0
    assert world.outbox.reads == 0


def test_two_threads_of_a_process_do_not_apply_the_same_consumer(world: World) -> None:
    world.put(1)
    second: list[int] = []

    def ring_again() -> None:
        thread = threading.Thread(target=lambda: second.append(apply("statistics", world.ports)))
        thread.start()
        thread.join()

    world.statistics.on_insert = ring_again
    assert apply("statistics", world.ports) == 1
    assert second == [0]
    assert world.statistics.inserts == [1]


def test_a_consumer_there_is_not_is_named(world: World) -> None:
    with pytest.raises(
        LookupError, match="no consumer 'hooks'; there are statistics, stop_list, dsn"
    ):
        apply("hooks", world.ports)


def test_addresses_that_are_gone_come_to_the_stop_list_once(world: World) -> None:
    gone = replace(EVENT, kind="bounced", bounce_type="hard", bounce_class="invalid_recipient")
    world.outbox.put(EVENT, gone)
    world.outbox.put(gone, replace(gone, account_id=8), replace(gone, bounce_class="policy"))
    world.outbox.bodies.append((1, b"nonsense"))
    assert apply("stop_list", world.ports) == 6
    assert sorted(world.stop_list.entries) == [(7, "aa"), (8, "aa")]
    assert [row for row, _ in world.outbox.refused] == [3]
    assert world.statistics.inserts == []


def test_many_minutes_are_recomputed_the_newest_first_a_turn_at_a_time() -> None:
    statistics = MemoryStatistics()
    statistics.touch(range(MINUTES_A_TURN + 10))
    assert roll_up(statistics) == MINUTES_A_TURN
    assert {len(each) for each in statistics.recomputed} == {MINUTES_AT_ONCE}
    assert statistics.recomputed[0][0] == MINUTES_A_TURN + 9
    assert statistics.touched() == list(range(10))
    assert roll_up(statistics) == 10
    assert roll_up(statistics) == 0
