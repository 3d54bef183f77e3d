"""The checker at work on a real ledger and real files: it mends what is safe, raises the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from mailcore.invariants import DEAD_S, OVERDUE_S, SWEEPS_S, Finding, Invariant
from mailcore.ports import StoreUnavailable
from mailio.check import PLACES, Checker
from mailio.ledger.check import CheckBook
from mailio.ledger.upkeep import LedgerUpkeep
from mailio.spool.files import segment_path
from tests.io.ledger.world import claim_all, ledger_url, query
from tests.support.builders import NODE, policy
from tests.support.fakes import world
from tests.workers.spool_house import DAY_S, GRACE_S, House, bodies, open_house
from tests.workers.test_upkeep import Shelf
from workers.engines.check import CheckPorts, check_contents, check_ledger
from workers.engines.lease import Lease
from workers.engines.settle import Rules
from workers.engines.sweep import SpoolPorts
from workers.engines.upkeep import UpkeepPorts

NOTED = "SELECT invariant, node, count, mended FROM queue_finding WHERE ended_at IS NULL"


@dataclass
class Desk:
    """A node's checker with the chores that mend."""

    house: House
    ports: CheckPorts
    book: CheckBook
    checker: Checker
    journals: Shelf
    rests: list[float] = field(default_factory=list)

    def look(self, *, is_whole: bool = True) -> list[tuple[Invariant, int, tuple[int, ...]]]:
        """Look at content, note it, and return what stands."""
        look = self.checker.look_at_contents(is_whole=is_whole, grace_s=GRACE_S, retention_s=0.0)
        self.checker.note_contents(look, took_s=0.0)
        return [(one.invariant, one.count, one.examples) for one in look.findings]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
async def desk(tmp_path: Path, stack: ExitStack) -> Desk:
    house = stack.enter_context(open_house(tmp_path / "spool"))
    query("TRUNCATE queue_finding, queue_check, queue_age, spool_node")
    it = world(policy())
    dsn = ledger_url()
    chores = stack.enter_context(closing(LedgerUpkeep(dsn)))
    book = stack.enter_context(closing(CheckBook(dsn, settling_s=0.0, rows_a_step=4)))
    shelf = stack.enter_context(closing(house.shelf()))
    lease = Lease(house.ledger, it.ports.clock, node=NODE, process="upkeep", journal="upkeep")
    await lease.open()
    journals = Shelf()
    deliver = replace(it.ports, ledger=house.ledger, lease=lease)
    upkeep = UpkeepPorts(deliver, chores, journals, Rules(it.policy))
    rests: list[float] = []
    checker = Checker(
        book, house.book, shelf, node=NODE, consumers=("statistics",), rest=rests.append
    )
    spool = SpoolPorts(NODE, house.policy, shelf, house.book, GRACE_S)
    return Desk(house, CheckPorts(checker, upkeep, spool), book, checker, journals, rests)


def past(seconds: float) -> str:
    return f"now() - interval '{seconds:g} s'"


# --- the ledger -----------------------------------------------------------------------------------


async def test_a_queue_that_is_right_is_noted_as_looked_at(desk: Desk) -> None:
    desk.house.take(b"one", b"two")
    assert await check_ledger(desk.ports) == []
    assert query("SELECT part, node, looked_at FROM queue_check") == [("ledger", "", 2)]
    assert query(NOTED) == []


async def test_expired_rows_and_wrong_counts_are_mended_and_said(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.house.take(*bodies(6, 60))
    query(f"UPDATE ledger_row SET expires_at = {past(OVERDUE_S + 60)} WHERE id <= 4")  # noqa: S608
    query("UPDATE ledger_lane SET unknown = unknown + 1")
    assert [(one.invariant, one.count, one.mended) for one in await check_ledger(desk.ports)] == [
        (Invariant.EXPIRED, 0, 4),
        (Invariant.LANE_COUNTS, 0, 1),
    ]
    assert "the queue was mended" in caplog.text
    assert query("SELECT count(*) FROM ledger_row") == [(2,)]
    assert query(NOTED) == []
    assert await check_ledger(desk.ports) == []
    assert query("SELECT sum(mended) FROM queue_finding") == [(5,)]


async def test_a_claim_of_a_dead_process_is_taken_back_by_the_reaper(desk: Desk) -> None:
    desk.house.take(b"one", b"two")
    number = await desk.house.ledger.register(node="lost", process="d", journal="d")
    await claim_all(desk.house.ledger, number)
    query(
        f"UPDATE ledger_incarnation SET heartbeat_at = {past(DEAD_S + 60)} WHERE id = %s",  # noqa: S608
        number,
    )
    (one,) = await check_ledger(desk.ports)
    assert (one.invariant, one.count, one.mended) == (Invariant.DEAD_CLAIM, 0, 2)
    assert query("SELECT DISTINCT state, reason FROM ledger_row") == [(0, "reclaimed")]
    assert await check_ledger(desk.ports) == []


async def test_what_nobody_may_mend_stays_as_it_is_and_stands(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.house.take(b"one")
    await claim_all(desk.house.ledger, desk.ports.upkeep.deliver.lease.number)
    query("UPDATE ledger_row SET incarnation = NULL")
    for _ in range(2):
        (one,) = await check_ledger(desk.ports)
        assert one == Finding(Invariant.NO_OWNER, 1, one.examples)
    assert query(NOTED) == [("no_owner", "", 1, 0)]
    assert query("SELECT state, incarnation FROM ledger_row") == [(1, None)]
    assert "the queue is not as it must be" in caplog.text


async def test_while_another_process_checks_the_ledger_nothing_is_done(desk: Desk) -> None:
    with closing(CheckBook(ledger_url())) as other:
        assert other.lead()
        query("UPDATE ledger_lane SET waiting = 99")
        assert await check_ledger(desk.ports) == []
        assert query("SELECT count(*) FROM queue_check") == [(0,)]


# --- content --------------------------------------------------------------------------------------


def damage(desk: Desk, segment: int) -> None:
    """Flip a byte of the segment's first content."""
    path = segment_path(desk.house.directory, segment)
    (offset,) = query(
        "SELECT min(content_offset) FROM ledger_row WHERE content_segment = %s", segment
    )[0]
    data = bytearray(path.read_bytes())
    data[offset + 8] ^= 1
    path.write_bytes(data)


async def test_content_that_reads_back_is_no_finding_and_is_read_once(desk: Desk) -> None:
    desk.house.take(*bodies(3, 60), people=4)
    assert desk.look() == []
    assert query("SELECT looked_at, is_whole FROM queue_check") == [(3, True)]
    assert len(desk.rests) == 1


async def test_a_flipped_byte_and_a_missing_file_are_found_and_end_when_restored(
    desk: Desk,
) -> None:
    damage(desk, desk.house.take(b"flipped", b"whole", people=2))
    gone = desk.house.take(b"gone")
    path = segment_path(desk.house.directory, gone)
    kept = path.read_bytes()
    path.unlink()
    assert desk.look() == [(Invariant.CONTENT_LOST, 3, (1, 2, 5))]
    assert desk.look() == [(Invariant.CONTENT_LOST, 3, (1, 2, 5))]
    path.write_bytes(kept)
    assert desk.look() == [(Invariant.CONTENT_LOST, 2, (1, 2))]
    query("DELETE FROM ledger_row WHERE id < 3")
    assert desk.look() == []
    assert query(NOTED) == []


async def test_a_sample_does_not_end_what_a_whole_look_found(desk: Desk) -> None:
    damage(desk, desk.house.take(*bodies(4, 60)))
    assert desk.look() == [(Invariant.CONTENT_LOST, 1, (1,))]
    desk.checker = Checker(
        desk.book,
        desk.house.book,
        desk.ports.spool.shelf,
        node=NODE,
        consumers=(),
        draw=lambda: 1.0,  # only the last row is drawn
    )
    assert desk.look(is_whole=False) == [(Invariant.CONTENT_LOST, 1, (1,))]
    assert query(NOTED) == [("content_lost", NODE, 1, 0)]


async def test_a_sample_reads_so_much_and_no_more(desk: Desk) -> None:
    desk.house.take(*bodies(40, 60))
    draws: list[float] = []

    def draw() -> float:
        draws.append(0.5)
        return 0.5

    checker = Checker(
        desk.book, desk.house.book, desk.ports.spool.shelf, node=NODE, consumers=(), draw=draw
    )
    look = checker.look_at_contents(is_whole=False, grace_s=GRACE_S, retention_s=0.0)
    assert len(draws) == PLACES
    assert look.contents == 8


async def test_a_pointer_that_moves_while_it_is_read_is_followed(desk: Desk) -> None:
    old = desk.house.take(b"moved")
    new = desk.house.take(b"moved")
    shelf = desk.ports.spool.shelf

    class Moving:
        """Moves the row to the copy and deletes the old file as the content is read."""

        def __getattr__(self, name: str) -> object:
            return getattr(shelf, name)

        def read(self, refs: object) -> object:
            segment_path(desk.house.directory, old).unlink(missing_ok=True)
            query("UPDATE ledger_row SET content_segment = %s", new)
            return shelf.read(refs)  # type: ignore[arg-type]

    checker = Checker(desk.book, desk.house.book, Moving(), node=NODE, consumers=())  # type: ignore[arg-type]
    look = checker.look_at_contents(is_whole=True, grace_s=GRACE_S, retention_s=0.0)
    assert look.findings == []


async def test_what_another_node_may_have_is_doubted_before_it_is_lost(desk: Desk) -> None:
    query("INSERT INTO spool_node (node) VALUES (%s), ('n2')", NODE)
    elsewhere = desk.house.take(b"on the other node")
    segment_path(desk.house.directory, elsewhere).unlink()
    assert desk.look() == []
    assert desk.look() == []  # the other node has not said what it has
    with_it = "INSERT INTO queue_check (part, node, took_s, looked_at, segments)"
    query(f"{with_it} VALUES ('content', 'n2', 0, 0, ARRAY[%s::bigint])", elsewhere)
    assert desk.look() == []
    query("UPDATE queue_check SET ended_at = now(), segments = '{}' WHERE node = 'n2'")
    assert desk.look() == [(Invariant.CONTENT_LOST, 1, (1,))]
    query("UPDATE queue_check SET segments = ARRAY[%s::bigint] WHERE node = 'n2'", elsewhere)
    assert desk.look() == []


async def test_segments_that_sweeps_do_not_take_are_told(desk: Desk) -> None:
    segment = desk.house.take(b"done")
    desk.house.finish("r0@one.test")
    assert desk.look() == []
    desk.house.ahead[0] = GRACE_S + SWEEPS_S - 60
    assert desk.look() == []
    desk.house.ahead[0] = DAY_S
    assert desk.look() == [(Invariant.CONTENT_ORPHANED, 1, (segment,))]


async def test_the_chore_looks_once_an_hour_and_notes_what_it_finds(desk: Desk) -> None:
    damage(desk, desk.house.take(b"flipped"))
    (one,) = await check_contents(desk.ports)
    assert (one.invariant, one.note) == (Invariant.CONTENT_LOST, "of a sample")
    assert await check_contents(desk.ports) == []  # not due
    assert query(NOTED) == [("content_lost", NODE, 1, 0)]
    query("UPDATE queue_check SET ended_at = now() - interval '1 hour'")
    assert len(await check_contents(desk.ports)) == 1


async def test_a_spool_that_cannot_be_read_is_named_and_nothing_is_noted(desk: Desk) -> None:
    desk.house.take(b"one")
    shelf = desk.ports.spool.shelf

    class Broken:
        def __getattr__(self, name: str) -> object:
            return getattr(shelf, name)

        def read(self, _refs: object) -> object:
            raise StoreUnavailable("spool", "permission denied")

    checker = Checker(desk.book, desk.house.book, Broken(), node=NODE, consumers=())  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailable, match="spool"):
        await check_contents(replace(desk.ports, checker=checker))
    assert query("SELECT count(*) FROM queue_check") == [(0,)]
