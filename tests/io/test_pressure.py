"""Who is refused when there is no room, and that it ends by itself."""

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from mailcore.outcome import MailClass
from mailcore.ports import StoreFull
from mailio.clock import LedgerClock
from mailio.intake import Intake
from mailio.ledger.outbox import PgOutbox
from mailio.pressure import LOOK_EVERY_S, OutboxGate, with_reserve
from mailio.spool.files import space_of
from mailio.spool.group import GroupCommit
from mailio.spool.room import floor_bytes
from mailio.spool.segments import SegmentSpool
from tests.io.test_intake import World, plan, request
from tests.io.test_intake import database as database
from tests.io.test_intake import world as world

MB = 2**20


def test_urgent_mail_is_kept_a_reserve_on_the_disk() -> None:
    assert floor_bytes(256 * MB, is_urgent=False) == 256 * MB
    assert floor_bytes(lambda: 256 * MB, is_urgent=True) == 128 * MB


def test_of_a_full_batch_the_urgent_is_committed_and_the_rest_told() -> None:
    offered: list[tuple[list[str], bool]] = []

    def commit(items: Sequence[str], urgent: bool) -> list[str]:
        offered.append((list(items), urgent))
        if not urgent:
            raise StoreFull("spool", "no room")
        return [item.upper() for item in items]

    first, second, third = with_reserve(["a", "b", "c"], [False, True, False], commit=commit)
    assert isinstance(first, StoreFull)
    assert isinstance(third, StoreFull)
    assert second == "B"
    assert offered == [(["a", "b", "c"], False), (["b"], True)]


def test_a_full_batch_without_urgent_mail_is_refused_whole() -> None:
    def commit(items: Sequence[str], urgent: bool) -> list[str]:
        raise StoreFull("spool", "no room")

    with pytest.raises(StoreFull):
        with_reserve(["a", "b"], [False, False], commit=commit)
    with pytest.raises(StoreFull):
        with_reserve(["a", "b"], [True, True], commit=commit)


def test_an_exception_in_the_place_of_a_result_is_raised_to_one_thread_alone() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def commit(items: Sequence[str]) -> list[str | Exception]:
        if "first" in items:
            begun.set()
            go_on.wait(10)
        return [StoreFull("spool", "no room") if item == "bulk" else item for item in items]

    group: GroupCommit[str, str] = GroupCommit(commit)
    told: dict[str, str] = {}

    def submit(item: str) -> None:
        try:
            told[item] = group.submit(item)
        except StoreFull:
            told[item] = "refused"

    threads = [
        threading.Thread(target=submit, args=(item,)) for item in ("first", "bulk", "urgent")
    ]
    threads[0].start()
    assert begun.wait(10)
    for thread in threads[1:]:
        thread.start()
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert told == {"first": "first", "bulk": "refused", "urgent": "urgent"}


def test_the_outbox_refuses_bulk_then_urgent_mail_and_takes_both_again() -> None:
    now, waiting, asked = [0.0], [0], [0]

    def measure() -> int:
        asked[0] += 1
        return waiting[0]

    gate = OutboxGate(measure, stop_bytes=100 * MB, monotonic=lambda: now[0])
    gate.check()
    waiting[0] = 100 * MB
    gate.check()  # it is not measured again at once
    assert asked == [1]
    now[0] += LOOK_EVERY_S
    gate.check(True)
    with pytest.raises(StoreFull, match="100 MB of events"):
        gate.check()
    waiting[0], now[0] = 125 * MB, now[0] + LOOK_EVERY_S
    with pytest.raises(StoreFull):
        gate.check(True)
    waiting[0], now[0] = 99 * MB, now[0] + LOOK_EVERY_S
    gate.check()
    assert asked == [4]
    OutboxGate(lambda: 1 // 0, stop_bytes=0).check()


def test_on_a_filling_disk_priority_mail_is_the_last_to_be_refused(
    world: World, tmp_path: Path
) -> None:
    kept = [0]
    bulk, urgent = plan("a@x.test"), plan("b@x.test", mail_class=MailClass.PRIORITY)
    with contextlib.closing(
        SegmentSpool(tmp_path / "filling", min_free_bytes=lambda: kept[0])
    ) as spool:
        intake = Intake(world.acceptor, spool, clock=LedgerClock(), waker=world.woken)
        free = space_of(tmp_path).free_bytes
        kept[0] = free + free // 2  # half of it is there, the whole is not
        with pytest.raises(StoreFull):
            intake.submit(request(bulk))
        with pytest.raises(StoreFull):
            intake.submit(request(urgent, plan("c@x.test")))  # one list, one fate
        assert intake.submit(request(urgent)).text == "b@x.test:yes:"
        kept[0] = 2**62
        with pytest.raises(StoreFull):
            intake.submit(request(plan("d@x.test", mail_class=MailClass.PRIORITY)))
        kept[0] = 0
        assert intake.submit(request(bulk)).text == "a@x.test:yes:"
    assert [row[0] for row in world.rows()] == ["b@x.test", "a@x.test"]


def test_what_waits_in_the_outbox_is_about_what_no_consumer_has(world: World) -> None:
    world.query("TRUNCATE ledger_cursor")
    assert world.acceptor.outbox_bytes() == 0
    for number in range(20):
        world.intake.submit(request(plan(f"u{number}@x.test")))
    world.query("DELETE FROM ledger_outbox WHERE id <= (SELECT min(id) + 4 FROM ledger_outbox)")
    ((size,),) = world.query("SELECT sum(length(body)) FROM ledger_outbox")
    assert size < world.acceptor.outbox_bytes() < size + 15 * 200
    with contextlib.closing(PgOutbox(world.url)) as outbox:
        for consumer, count in (("statistics", 15), ("dsn", 5)):
            assert outbox.lead(consumer)
            batches = outbox.read(consumer, limit=count)
            outbox.advance(consumer, batches[-1].cursor)
    assert len(batches) == 5  # the slowest counts
    assert size * 10 // 15 < world.acceptor.outbox_bytes() < size


def test_mail_is_refused_while_the_outbox_is_full_and_taken_again(world: World) -> None:
    world.query("TRUNCATE ledger_cursor")
    now = [0.0]
    gate = OutboxGate(world.acceptor.outbox_bytes, stop_bytes=100, monotonic=lambda: now[0])
    intake = Intake(
        world.acceptor, world.spool, clock=LedgerClock(), waker=world.woken, gate=gate.check
    )
    intake.submit(request(*(plan(f"u{number}@x.test") for number in range(5))))
    now[0] += LOOK_EVERY_S
    with pytest.raises(StoreFull, match="outbox"):
        intake.submit(request(plan("late@x.test")))
    assert len(world.rows()) == 5
    with contextlib.closing(PgOutbox(world.url)) as outbox:
        assert outbox.lead("statistics")
        outbox.advance("statistics", outbox.read("statistics", limit=10)[-1].cursor)
    now[0] += LOOK_EVERY_S
    intake.submit(request(plan("late@x.test")))
    assert len(world.rows()) == 6
