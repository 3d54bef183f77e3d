"""Upkeep of a spool that nodes share: one sweeps, whatever dies in between, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mailcore.ports import StoreUnavailable
from mailcore.spool import SHARED_HOME, SpoolMark
from mailio.ledger.spool import SpoolBook
from mailio.spool.mongo_shelf import MongoShelf
from mailio.spool.mongo_store import MongoStore
from mailio.spool.mongodb import MongoSpool
from tests.io.ledger.world import ledger_url, query
from tests.support.builders import NODE
from tests.support.mongo.double import Double
from tests.support.ports import free_port
from tests.workers.spool_house import DAY_S, GRACE_S, House, bodies, open_house
from workers.engines.sweep import SpoolPorts, sweep_spool


@dataclass
class SharedHouse(House):
    """A node of several, whose spool is a database with a clock of its own."""

    double: Double | None = None

    def store(self) -> MongoStore:
        assert self.double is not None
        self.double.ahead_s = self.ahead[0]
        return MongoStore(self.double.url())

    def spool(self) -> MongoSpool:
        return MongoSpool(self.store(), min_free_bytes=0)

    def shelf(self) -> MongoShelf:
        return MongoShelf(self.store(), copy_floor_bytes=0)

    def ports(self, shelf: Any, book: Any) -> SpoolPorts:
        return replace(super().ports(shelf, book), is_shared=True)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[SharedHouse]:
    double = Double(free_port())
    double.start()
    query("TRUNCATE spool_home")
    with open_house(tmp_path) as own:
        yield SharedHouse(
            own.directory,
            own.acceptor,
            own.ledger,
            own.book,
            own.policy,
            double=double,
        )
    double.stop()


async def test_content_goes_after_the_grace_time_and_what_is_needed_stays(
    house: SharedHouse,
) -> None:
    kept, _ = house.take(b"kept"), house.take(b"done")
    house.finish("r1@one.test")
    await house.sweep()
    assert len(house.segments()) == 2
    house.ahead[0] = GRACE_S + 1
    await house.sweep()
    assert house.segments() == [kept]
    assert house.told("deleted, segments") == (1, 1)
    house.ahead[0] = 365 * DAY_S
    await house.sweep()
    house.assert_all_is_there()


async def test_what_is_mostly_dead_is_rewritten(house: SharedHouse) -> None:
    old = house.take(*bodies(20))
    house.finish(*(f"r{n}@one.test" for n in range(15)))
    house.ahead[0] = GRACE_S + 1
    await house.sweep()
    assert house.told("compacted, moved_rows") == (1, 5)
    house.assert_all_is_there()
    assert old in house.segments()
    house.ahead[0] += GRACE_S + 1
    await house.sweep()
    assert old not in house.segments()
    house.assert_all_is_there()


@pytest.mark.parametrize("after", [False, True])
async def test_a_kill_at_any_step_loses_nothing_and_the_next_sweep_ends_the_work(
    house: SharedHouse, after: bool
) -> None:
    was_killed, steps = True, 0
    while was_killed:
        house.take(*bodies(20))
        garbage = house.take(b"garbage")
        house.finish(*(f"r{n}@one.test" for n in (*range(15), 20)))
        house.ahead[0] += GRACE_S + 1
        was_killed = await house.sweep_dying(steps, after=after)
        house.assert_all_is_there()
        for _ in range(2):
            house.ahead[0] += GRACE_S + 1
            await house.sweep()
            house.assert_all_is_there()
        assert garbage not in house.segments()
        query("DELETE FROM ledger_row")
        house.owed.clear()
        house.ahead[0] += GRACE_S + 1
        await house.sweep()
        assert house.segments() == []
        steps += 1
    assert steps > 5  # count, mark, delete, copy, spare, move, seal, note


async def test_of_two_nodes_one_sweeps_and_the_other_takes_over(house: SharedHouse) -> None:
    house.take(b"done")
    house.finish("r0@one.test")
    house.ahead[0] = GRACE_S + 1
    await house.sweep()
    other = SpoolBook(ledger_url())
    with closing(house.shelf()) as shelf, closing(other):
        ports = replace(house.ports(shelf, other), node="other")
        house.take(b"done too")
        house.finish("r0@one.test")
        house.ahead[0] += GRACE_S + 1
        assert await sweep_spool(ports) == 0
        assert len(house.segments()) == 1
        assert query("SELECT count(*) FROM spool_node WHERE node = 'other'") == [(0,)]
        house.book.close()
        assert await _until_it_leads(ports) == 1
    assert house.segments() == []
    assert query("SELECT node, sweeps FROM spool_home") == [(SHARED_HOME, 2)]


async def _until_it_leads(ports: SpoolPorts) -> int:
    """The server frees the lock of a session in its own time."""
    while not ports.ledger.lead():
        pass
    return await sweep_spool(ports)


async def test_who_lost_the_right_to_sweep_moves_nothing(house: SharedHouse) -> None:
    house.take(b"one")
    assert house.book.lead()
    columns = "content_segment, content_offset, content_length, content_crc"
    (old,) = house.book.live_contents(house.segments()[0])
    new = replace(old, offset=old.offset + 1000)
    query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
        "postfleet-spool",
    )
    with pytest.raises(StoreUnavailable):
        house.book.move_contents([(old, new)])
    with pytest.raises(StoreUnavailable, match="another process sweeps"):
        house.book.move_contents([(old, new)])
    assert query(f"SELECT {columns} FROM ledger_row") == [  # noqa: S608 (constant)
        (old.segment, old.offset, old.length, old.crc)
    ]
    assert house.book.lead()
    assert house.book.move_contents([(old, new)]) == 1


async def test_a_database_that_is_older_than_the_spool_sweeps_nothing(house: SharedHouse) -> None:
    garbage = house.take(b"garbage")
    house.finish("r0@one.test")
    await house.sweep()
    with closing(house.store()) as store:
        mark = store.mark()
        assert mark is not None
        assert (mark.node, mark.sweeps) == (SHARED_HOME, 1)
        store.write_mark(replace(mark, sweeps=9))
        house.ahead[0] = DAY_S
        await house.sweep()
        assert house.told("doubt") == ("rewound",)
        store.write_mark(SpoolMark("another"))
        await house.sweep()
        assert house.told("doubt") == ("others",)
    assert house.segments() == [garbage]
    assert query("SELECT node FROM spool_node") == [(NODE,)]
