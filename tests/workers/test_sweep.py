"""Spool upkeep on real files and a real ledger: what may go goes, what is owed never does, whatever
dies in between."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from mailcore.envelope import ContentRef
from mailcore.policy.model import Node, PolicySnapshot
from mailcore.ports import StoreFull, StoreUnavailable
from mailcore.spool import SpoolMark
from mailio.shelves import SegmentDirectory
from mailio.spool.files import segment_path
from mailio.spool.mark import read_mark, write_mark
from mailio.spool.opening import Shelf
from mailio.spool.segments import SegmentSpool
from tests.io.ledger.test_spool_book import UNDO
from tests.io.ledger.world import claim_all, ends, query
from tests.support.builders import NODE
from tests.support.fakes import world
from tests.workers.spool_house import DAY_S, GRACE_S, KB, House, bodies, open_house
from workers.engines.prepare import Keyring, prepare
from workers.engines.sweep import SpoolPorts, measure_disk, sweep_spool


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path / "spool") as house:
        yield house


# --- retention ------------------------------------------------------------------------------------


async def test_without_retention_content_goes_after_the_grace_time(house: House) -> None:
    house.take(b"done")
    house.finish("r0@one.test")
    await house.sweep()
    assert len(house.segments()) == 1
    assert house.told("oldest_keeper, deleted") == ("grace", 0)
    house.ahead[0] = GRACE_S + 1
    await house.sweep()
    assert house.segments() == []
    assert house.told("deleted, deleted_all, segments, oldest_at") == (1, 1, 0, None)


async def test_retention_is_obeyed_as_soon_as_policy_changes(house: House) -> None:
    house.take(b"done")
    house.finish("r0@one.test")
    house.ahead[0] = DAY_S
    house.keep(2 * DAY_S)
    await house.sweep()
    assert house.told("segments, oldest_keeper, retention_s") == (1, "retention", 2 * DAY_S)
    house.keep(0.0)
    await house.sweep()
    assert house.segments() == []


async def test_what_a_row_or_an_undo_record_points_at_stays_for_ever(house: House) -> None:
    waiting, purged = house.take(b"waiting"), house.take(b"purged")
    query(UNDO.format("WHERE recipient = 'r1@one.test'"))
    house.finish("r1@one.test")
    house.ahead[0] = 365 * DAY_S
    await house.sweep()
    assert house.segments() == [waiting, purged]
    assert set(house.told("kept")[0]) == {"rows", "undo"}
    query("TRUNCATE queue_undo")
    await house.sweep()
    assert house.segments() == [waiting]
    house.assert_all_is_there()


async def test_what_a_process_still_writes_to_stays(house: House) -> None:
    with closing(SegmentSpool(house.directory, min_free_bytes=0)) as spool:
        spool.append([b"x"])
        house.ahead[0] = 10 * DAY_S
        await house.sweep()
        assert house.told("segments, oldest_keeper") == (1, "open")
    await house.sweep()
    assert house.segments() == []


async def test_files_of_others_are_reported_and_left(house: House) -> None:
    house.take(b"x")
    for name in ("core.1234", "backup.tar"):
        (house.directory / name).write_bytes(b"precious")
    house.ahead[0] = 10 * DAY_S
    await house.sweep()
    assert house.told("foreign_count, foreign_names") == (2, ["backup.tar", "core.1234"])
    assert (house.directory / "backup.tar").read_bytes() == b"precious"


# --- compaction -----------------------------------------------------------------------------------


async def test_one_live_message_of_many_does_not_keep_their_segment(house: House) -> None:
    old = house.take(*bodies(20))
    house.finish(*(f"r{n}@one.test" for n in range(20) if n != 7))
    house.ahead[0] = GRACE_S + 1
    await house.sweep()
    house.assert_all_is_there()
    assert house.told("compacted, moved_rows, deleted, unreadable") == (1, 1, 0, 0)
    (kept, copy) = house.segments()
    assert kept == old  # for who read the row before
    house.ahead[0] += GRACE_S + 1
    await house.sweep()
    assert house.segments() == [copy]
    house.assert_all_is_there()
    await house.sweep()
    assert house.told("compacted, compacted_all, segments") == (0, 1, 1)


async def test_shared_content_is_copied_once_for_all_who_share_it(house: House) -> None:
    house.take(*bodies(10), people=9)
    house.finish(*(f"r{n}@one.test" for n in range(90) if n // 9 != 4))
    query(UNDO.format("WHERE recipient = 'r36@one.test'"))
    house.ahead[0] = GRACE_S + 1
    await house.sweep()
    size_bytes = len(bodies(10)[4])
    assert house.told("moved_rows, copied_bytes, live_bytes") == (10, size_bytes, size_bytes + 8)
    house.assert_all_is_there()
    pointers = "SELECT DISTINCT content_segment, content_offset FROM {}"
    assert query(pointers.format("queue_undo")) == query(pointers.format("ledger_row"))


async def test_a_segment_that_is_mostly_alive_is_left_alone(house: House) -> None:
    old = house.take(*bodies(10))
    house.finish("r3@one.test")
    house.ahead[0] = 10 * DAY_S
    await house.sweep()
    assert house.segments() == [old]
    assert house.told("compacted") == (0,)


async def test_a_segment_under_retention_is_not_rewritten(house: House) -> None:
    old = house.take(*bodies(20))
    house.finish(*(f"r{n}@one.test" for n in range(19)))
    house.keep(20 * DAY_S)
    house.ahead[0] = 10 * DAY_S
    await house.sweep()
    assert house.segments() == [old]


async def test_damaged_content_stays_where_it_is_and_is_told(house: House) -> None:
    old = house.take(*bodies(20))
    house.finish(*(f"r{n}@one.test" for n in range(18)))
    raw = bytearray(segment_path(house.directory, old).read_bytes())
    raw[raw.index(bodies(20)[18])] ^= 1
    segment_path(house.directory, old).write_bytes(raw)
    house.ahead[0] = GRACE_S + 10
    await house.sweep()
    assert house.told("unreadable, compacted, moved_rows") == (1, 1, 1)
    house.ahead[0] += GRACE_S + 10
    await house.sweep()
    assert old in house.segments()  # somebody may still mend the disk
    assert house.told("unreadable, compacted") == (1, 0)


async def test_a_full_disk_stops_the_rewriting_and_nothing_else(house: House) -> None:
    house.take(*bodies(20))
    garbage = house.take(b"garbage")
    house.finish(*(f"r{n}@one.test" for n in range(1, 21)))
    house.ahead[0] = GRACE_S + 1

    class Full(SegmentDirectory):
        def copy(self, contents: Sequence[bytes]) -> Sequence[ContentRef]:
            raise StoreFull("spool", "only 0 MB of disk are left")

    with closing(Full(house.directory, wall=house.wall)) as shelf:
        await sweep_spool(SpoolPorts(NODE, house.policy, shelf, house.book, GRACE_S))
    assert house.told("deleted, compacted") == (1, 0)
    assert garbage not in house.segments()
    house.assert_all_is_there()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_killed_at_any_step_nothing_is_lost_and_the_next_sweeps_finish(
    house: House, after: bool
) -> None:
    steps = 0
    is_killed = True
    while is_killed:
        house.take(*bodies(12), people=3)
        house.take(b"garbage")
        first = len(house.owed) - 37
        gone = [n for n in range(37) if n // 3 not in (2, 9)]
        house.finish(*(f"r{first + n}@one.test" for n in gone))
        house.ahead[0] += GRACE_S + 1
        is_killed = await house.sweep_dying(steps, after=after)
        house.assert_all_is_there()
        for _ in range(3):
            house.ahead[0] += GRACE_S + 1
            await house.sweep()
            house.assert_all_is_there()
        assert house.told("live_bytes * 2 > size_bytes, oldest_keeper") == (True, "rows")
        query("DELETE FROM ledger_row")
        house.owed.clear()
        house.ahead[0] += GRACE_S + 1
        await house.sweep()
        assert house.segments() == []
        steps += 1
    assert steps > 5  # delete, copy, spare, move, seal, note


async def test_two_upkeep_processes_at_once_lose_nothing(house: House) -> None:
    house.take(*bodies(20), people=3)
    house.finish(*(f"r{n}@one.test" for n in range(3, 60)))
    house.ahead[0] = GRACE_S + 1

    class Overtaken(SegmentDirectory):
        """Between its copy and its move, another process sweeps, and again after a day."""

        def copy(self, contents: Sequence[bytes]) -> Sequence[ContentRef]:
            copies = super().copy(contents)
            for _ in range(2):
                with closing(house.shelf()) as other:
                    self._sweep_as(other)
                house.ahead[0] += DAY_S
            with closing(house.shelf()) as other:
                self._sweep_as(other)
            return copies

        def _sweep_as(self, other: Shelf) -> None:
            ports = SpoolPorts(NODE, house.policy, other, house.book, GRACE_S)
            asyncio.run(sweep_spool(ports))

    with closing(Overtaken(house.directory, copy_floor_bytes=0, wall=house.wall)) as shelf:
        await sweep_spool(SpoolPorts(NODE, house.policy, shelf, house.book, GRACE_S))
    house.assert_all_is_there()
    house.ahead[0] += DAY_S
    await house.sweep()
    house.assert_all_is_there()
    assert len(house.segments()) == 1


# --- whose directory it is ------------------------------------------------------------------------


async def test_a_directory_of_another_installation_is_left_alone_and_that_is_told(
    house: House,
) -> None:
    garbage = house.take(b"of the others")
    house.finish("r0@one.test")
    house.ahead[0] = DAY_S
    write_mark(house.directory, SpoolMark("another", NODE, 1))
    await house.sweep()
    assert house.segments() == [garbage]
    assert house.told("doubt, deleted, segments") == ("others", 0, 1)
    assert read_mark(house.directory) == SpoolMark("another", NODE, 1)


async def test_a_ledger_older_than_the_directory_deletes_nothing_until_somebody_has_looked(
    house: House,
) -> None:
    await house.sweep()  # there is no directory yet, and nothing is marked
    assert not house.directory.exists()
    house.take(b"accepted before the backup")
    await house.sweep()
    backup = query("SELECT sweeps FROM spool_home WHERE node = %s", NODE)
    later = house.take(b"accepted after the backup")
    await house.sweep()
    query("UPDATE spool_home SET sweeps = %s WHERE node = %s", backup[0][0], NODE)
    house.finish("r0@one.test", "r1@one.test")
    house.ahead[0] = DAY_S
    for _ in range(5):  # time does not heal it
        await house.sweep()
        assert later in house.segments()
        assert house.told("doubt, deleted") == ("rewound", 0)
    (house.directory / "installation.json").unlink()
    await house.sweep()
    assert house.segments() == []
    assert house.told("doubt, foreign_count") == ("", 0)


async def test_a_mark_that_cannot_be_read_is_nobodys_we_know(house: House) -> None:
    house.take(b"x")
    for text in (b"", b"[]", b'{"installation": 5, "node": null}', bytes(range(256)) * 40):
        (house.directory / "installation.json").write_bytes(text)
        await house.sweep()
        assert house.told("doubt") == ("others",)


async def test_a_directory_that_takes_no_mark_is_not_swept(house: House) -> None:
    garbage = house.take(b"garbage")
    house.finish("r0@one.test")
    house.ahead[0] = DAY_S

    class ReadOnly(SegmentDirectory):
        def write_mark(self, new: SpoolMark) -> None:
            raise StoreUnavailable("spool", "Read-only file system")

    with closing(ReadOnly(house.directory, wall=house.wall)) as shelf:
        await sweep_spool(SpoolPorts(NODE, house.policy, shelf, house.book, GRACE_S))
    assert house.segments() == [garbage]
    assert house.told("doubt") == ("unmarked",)


async def test_two_nodes_of_one_installation_may_share_a_directory(house: House) -> None:
    for _ in range(3):
        await house.sweep()
    kept = house.take(b"x")
    for node in ("node8", NODE, "node9", NODE):
        with closing(house.shelf()) as shelf:
            await sweep_spool(SpoolPorts(node, house.policy, shelf, house.book, GRACE_S))
        assert query("SELECT doubt FROM spool_node WHERE node = %s", node) == [("",)]
    assert house.segments() == [kept]


async def test_what_a_clock_that_was_ahead_wrote_is_kept_for_the_grace_time_and_not_for_years(
    house: House,
) -> None:
    house.ahead[0] = 3000 * DAY_S
    future = house.take(b"x")
    os.utime(segment_path(house.directory, future), (house.wall(), house.wall()))
    house.finish("r0@one.test")
    house.ahead[0] = 0.0
    for ahead_s in (0.0, GRACE_S - 1):
        house.ahead[0] = ahead_s
        await house.sweep()
        assert house.told("segments, oldest_keeper") == (1, "grace")
    house.ahead[0] = GRACE_S + 2
    await house.sweep()
    assert house.segments() == []


# --- who reads meanwhile --------------------------------------------------------------------------


async def test_a_row_claimed_before_its_content_moved_is_still_sent(house: House) -> None:
    old = house.take(*(b"Subject: %d\r\n\r\nx\r\n" % n + b"y" * 40 * KB for n in range(20)))
    house.finish(*(f"r{n}@one.test" for n in range(19)))
    number = await house.ledger.register(node=NODE, process="d", journal="d")
    rows = await claim_all(house.ledger, number)
    for _ in range(2):
        house.ahead[0] += GRACE_S + 1
        await house.sweep()
    assert old not in house.segments()
    assert [row.content.segment for row in rows] == [old]
    it = world()
    with closing(SegmentSpool(house.directory)) as spool:
        ports = replace(it.ports, ledger=house.ledger, spool=spool)
        (wire,) = await prepare(rows, policy=it.policy.current(), ports=ports, keyring=Keyring())
        assert b"Subject: 19" in wire.content  # type: ignore[union-attr]
        await house.ledger.settle(ends(rows))
        # A row that is done meanwhile has no content, and nobody looks elsewhere.
        (wire,) = await prepare(rows, policy=it.policy.current(), ports=ports, keyring=Keyring())
        assert not hasattr(wire, "content")


# --- the disk -------------------------------------------------------------------------------------


async def test_a_node_tells_its_disk_and_its_thresholds(house: House) -> None:
    node = Node(1, NODE, spool_warn_bytes=9, spool_stop_bytes=8)
    house.policy.snapshot = PolicySnapshot(2, nodes={NODE: node})
    with closing(house.shelf()) as shelf:
        await measure_disk(SpoolPorts(NODE, house.policy, shelf, house.book))
        space = shelf.space()
    assert house.told("total_bytes, warn_bytes, stop_bytes, growth, hours_left") == (
        space.total_bytes,
        9,
        8,
        None,
        None,
    )
    query(
        "INSERT INTO spool_sample SELECT %s, date_trunc('minute', now()) - n * interval '1 min',"
        " free_bytes + n * 1000000000::bigint, free_inodes"
        " FROM spool_sample, generate_series(1, 59) n",
        NODE,
    )
    with closing(house.shelf()) as shelf:
        await measure_disk(SpoolPorts(NODE, house.policy, shelf, house.book))
    growth, hours_left = house.told("growth, hours_left")
    assert growth > 10_000_000
    assert 0 < hours_left < 100_000
