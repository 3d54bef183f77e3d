"""The checker on a real ledger: what is broken by hand is found, that and nothing else; what passes
normally is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from mailcore.envelope import ContentRef
from mailcore.invariants import (
    CURSOR_S,
    DEAD_S,
    ENDED_S,
    LEASED_OVERDUE_S,
    OF_LEDGER,
    OVERDUE_S,
    UNBURIED_S,
    Absent,
    Finding,
    Invariant,
)
from mailcore.outcome import RowState, WaitReason
from mailcore.ports import CheckedContents
from mailio.ledger.accept import Acceptor
from mailio.ledger.check import CheckBook
from mailio.ledger.delivery import PgLedger
from mailio.ledger.upkeep import LedgerUpkeep
from tests.io.ledger.world import accept, claim_all, message, query, waits

CONSUMERS = ("statistics",)


def back(table: str, column: str, seconds: float, where: str = "true") -> str:
    """Return SQL that puts a time of some rows into the past."""
    past = f"now() - interval '{seconds:g} s'"
    return f"UPDATE {table} SET {column} = {past} WHERE {where}"  # noqa: S608 (constants)


FINDINGS = """
SELECT invariant, node, count, mended, ended_at IS NULL, examples, note
  FROM queue_finding ORDER BY id
"""


@pytest.fixture
def book(dsn: str) -> Iterator[CheckBook]:
    query("TRUNCATE queue_finding, queue_check, queue_age, spool_node")
    side = CheckBook(dsn, settling_s=0.0, rows_a_step=3)
    yield side
    side.close()


@pytest.fixture
async def rows(acceptor: Acceptor, ledger: PgLedger, incarnation: int) -> list[int]:
    """A queue with something of everything: 1 to 3 leased, 4 unknown, 5 to 8 waiting, the last
    two unrouted and one of these parked."""
    accept(acceptor, *(message(f"{n}@one.test") for n in range(4)))
    taken = sorted(await claim_all(ledger, incarnation), key=lambda row: row.id)
    await ledger.settle(
        waits(taken[3:], delay_s=60.0, state=RowState.UNKNOWN, reason=WaitReason.UNKNOWN_OUTCOME)
    )
    accept(acceptor, message("4@one.test"), message("5@two.test"))
    accept(acceptor, message("6@new.test", site=""), message("7@held.test", site=""))
    query(
        "UPDATE ledger_row SET reason = 'held', due_at = expires_at WHERE recipient = '7@held.test'"
    )
    return [int(row[0]) for row in query("SELECT id FROM ledger_row ORDER BY id")]


def found(book: CheckBook) -> Sequence[Finding]:
    return book.tally(CONSUMERS).findings


def kinds(book: CheckBook) -> list[tuple[Invariant, int, tuple[int, ...]]]:
    return [(one.invariant, one.count, one.examples) for one in found(book)]


def test_a_queue_with_something_of_everything_is_as_it_must_be(
    book: CheckBook, rows: list[int]
) -> None:
    tally = book.tally(CONSUMERS)
    assert tally.findings == []
    assert tally.rows == len(rows) == 8
    assert [(one.state, one.reason, one.rows) for one in tally.ages] == [
        (0, "held", 1),
        (0, "new", 2),
        (0, "unrouted", 1),
        (1, "", 3),
        (2, "", 1),
    ]


def test_an_empty_ledger_is_as_it_must_be(book: CheckBook) -> None:
    assert book.tally(CONSUMERS).findings == []


PASSING = {
    "expired a moment ago": back("ledger_row", "expires_at", OVERDUE_S - 60),
    "its process died ten seconds ago": back("ledger_incarnation", "heartbeat_at", 10),
    "its node is silent, and not lost yet": back("ledger_incarnation", "heartbeat_at", DEAD_S - 60),
    "its process has ended, and is being reaped": back(
        "ledger_incarnation", "ended_at", ENDED_S - 60
    ),
    "is to be decided on": back("ledger_row", "due_at", OVERDUE_S - 60, "state = 2"),
    "a batch that no consumer has yet": back("ledger_outbox", "created_at", CURSOR_S - 60),
}


@pytest.mark.parametrize("case", PASSING)
def test_what_passes_normally_is_no_finding(book: CheckBook, rows: list[int], case: str) -> None:
    query(PASSING[case])
    assert found(book) == []


# What breaks it, which of the eight rows or other things are then named.
BROKEN: dict[str, tuple[Invariant, str, tuple[int, ...]]] = {
    "a state of a later version": (
        Invariant.ROW_STATE,
        "UPDATE ledger_row SET state = 9 WHERE id = 5; UPDATE ledger_lane l SET waiting ="
        " (SELECT count(*) FROM ledger_row r WHERE r.lane_id = l.id AND state = 0)",
        (5,),
    ),
    "leased to nobody": (
        Invariant.NO_OWNER,
        "UPDATE ledger_row SET incarnation = NULL WHERE id = 2",
        (2,),
    ),
    "leased to somebody nobody knows": (
        Invariant.NO_OWNER,
        "UPDATE ledger_row SET incarnation = 4711 WHERE state = 1",
        (1, 2, 3),
    ),
    "leased to a process of a lost node": (
        Invariant.DEAD_CLAIM,
        back("ledger_incarnation", "heartbeat_at", DEAD_S + 60),
        (1, 2, 3),
    ),
    "leased to a process that was ended": (
        Invariant.DEAD_CLAIM,
        back("ledger_incarnation", "ended_at", ENDED_S + 60),
        (1, 2, 3),
    ),
    "never due": (
        Invariant.NO_DUE_TIME,
        "UPDATE ledger_row SET due_at = 'infinity' WHERE id IN (4, 6)",
        (4, 6),
    ),
    "no reason": (Invariant.NO_REASON, "UPDATE ledger_row SET reason = '' WHERE id = 6", (6,)),
    "lives for ever": (
        Invariant.NO_EXPIRY,
        "UPDATE ledger_row SET expires_at = 'infinity' WHERE id IN (1, 8)",
        (1, 8),
    ),
    "long expired": (
        Invariant.EXPIRED,
        back("ledger_row", "expires_at", OVERDUE_S + 60),
        (4, 5, 6, 7, 8),
    ),
    "held by a live process long after its expiry": (
        Invariant.EXPIRED,
        back("ledger_row", "expires_at", LEASED_OVERDUE_S + 60, "id = 2"),
        (2,),
    ),
    "an unknown outcome that nobody decides on": (
        Invariant.UNKNOWN_OVERDUE,
        back("ledger_row", "due_at", OVERDUE_S + 60, "id = 4"),
        (4,),
    ),
    "set aside, and long expired": (
        Invariant.RESTORED,
        "UPDATE ledger_row SET reason = 'restored', due_at = now() - interval '1 day',"
        " expires_at = now() - interval '1 day' WHERE id = 4",
        (4,),
    ),
    "a lane that is gone": (
        Invariant.NO_LANE,
        "DELETE FROM ledger_lane WHERE id = (SELECT lane_id FROM ledger_row WHERE id = 6)",
        (6,),
    ),
    "unrouted, and routing cannot see it": (
        Invariant.NO_LANE,
        "UPDATE ledger_row SET unrouted_domain = NULL WHERE id = 7",
        (7,),
    ),
    "a consumer that stands still": (
        Invariant.CURSOR_STUCK,
        back("ledger_outbox", "created_at", CURSOR_S + 60),
        (1,),
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_found_and_nothing_else_and_again_the_same(
    book: CheckBook, rows: list[int], case: str
) -> None:
    invariant, sql, examples = BROKEN[case]
    assert rows == list(range(1, 9))
    query(sql)
    expected = [(invariant, len(examples), examples)]
    assert kinds(book) == expected
    assert kinds(book) == expected


def test_a_dead_process_without_rows_is_found_too(book: CheckBook, incarnation: int) -> None:
    query("UPDATE ledger_incarnation SET heartbeat_at = now() - make_interval(secs => %s)", 60.0)
    assert found(book) == []
    query(
        "UPDATE ledger_incarnation SET heartbeat_at = now() - make_interval(secs => %s)",
        UNBURIED_S + 60,
    )
    (one,) = found(book)
    assert one == Finding(Invariant.DEAD_PROCESS, 1, (incarnation,), "of n1")


def test_nobody_is_judged_right_after_the_database_came_back(dsn: str, rows: list[int]) -> None:
    query("UPDATE ledger_incarnation SET heartbeat_at = now() - interval '1 day'")
    query("UPDATE ledger_row SET expires_at = now() - interval '1 day'")
    book = CheckBook(dsn, settling_s=10 * 365 * 86400.0)
    assert found(book) == []
    book.close()


def test_counts_that_differ_are_mended_by_the_recount_and_then_are_no_more(
    book: CheckBook, rows: list[int], dsn: str
) -> None:
    query("UPDATE ledger_lane SET waiting = waiting + 7 WHERE id = 1")
    query("UPDATE ledger_lane SET next_due_at = 'infinity' WHERE site = 'mx.two.test'")
    lane = query("SELECT id FROM ledger_lane WHERE site = 'mx.two.test'")[0][0]
    assert kinds(book) == [
        (Invariant.LANE_COUNTS, 1, (1,)),
        (Invariant.LANE_LATE, 1, (lane,)),
    ]
    upkeep = LedgerUpkeep(dsn)
    assert upkeep.recount_lanes() == 2
    upkeep.close()
    assert found(book) == []


def test_a_consumer_behind_an_open_transaction_says_so(book: CheckBook, rows: list[int]) -> None:
    query(back("ledger_outbox", "created_at", CURSOR_S + 60))
    query(
        "UPDATE ledger_outbox SET xid = (pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
        " + 1000)::text::xid8"
    )
    (one,) = found(book)
    assert one.note == "statistics (an open transaction is in its way)"
    query(
        "INSERT INTO ledger_cursor (consumer, xid, row_id) VALUES ('statistics', %s, 99)",
        "9223372036854775807",
    )
    assert found(book) == []


def test_more_than_ten_are_counted_and_ten_are_named(book: CheckBook, acceptor: Acceptor) -> None:
    accept(acceptor, *(message(f"{n}@one.test") for n in range(25)))
    query("UPDATE ledger_row SET due_at = 'infinity'")
    (one,) = found(book)
    assert one.count == 25
    assert one.examples == tuple(range(1, 11))


def test_what_comes_in_while_it_looks_does_not_keep_it_looking(
    book: CheckBook, acceptor: Acceptor, rows: list[int]
) -> None:
    def more(_done: int, _whole: int) -> None:
        accept(acceptor, message("late@one.test"))

    assert book.tally(CONSUMERS, progress=more).rows == 8


# --- notes ----------------------------------------------------------------------------------------


def test_a_finding_is_one_row_while_it_stands_and_ends_when_it_is_met_no_more(
    book: CheckBook, rows: list[int]
) -> None:
    query("UPDATE ledger_row SET reason = '' WHERE id = 6")
    for _ in range(2):
        tally = book.tally(CONSUMERS)
        book.note_ledger(tally.findings, tally, took_s=0.5)
    assert query(FINDINGS) == [("no_reason", "", 1, 0, True, [6], "")]
    assert query("SELECT first_seen_at < last_seen_at FROM queue_finding") == [(True,)]
    assert query("SELECT part, node, took_s, looked_at FROM queue_check") == [
        ("ledger", "", 0.5, 8)
    ]
    query("UPDATE ledger_row SET reason = 'new' WHERE id = 6")
    tally = book.tally(CONSUMERS)
    book.note_ledger(tally.findings, tally, took_s=0.5)
    assert query(FINDINGS) == [("no_reason", "", 1, 0, False, [6], "")]
    query("UPDATE ledger_row SET reason = '' WHERE id = 6")
    tally = book.tally(CONSUMERS)
    book.note_ledger(tally.findings, tally, took_s=0.5)
    assert [row[4] for row in query(FINDINGS)] == [False, True]


def test_what_was_mended_whole_is_noted_and_over_at_once(book: CheckBook) -> None:
    tally = book.tally(CONSUMERS)
    book.note_ledger([Finding(Invariant.EXPIRED, 0, (3,), mended=7)], tally, took_s=0.0)
    assert query(FINDINGS) == [("expired", "", 0, 7, False, [3], "")]


def test_what_one_part_of_the_check_found_does_not_end_with_the_other(book: CheckBook) -> None:
    tally = book.tally(CONSUMERS)
    look = CheckedContents(5, False, [Finding(Invariant.CONTENT_LOST, 1, (3,))], [10, 11])
    book.note_ledger([Finding(Invariant.NO_REASON, 1, (1,))], tally, took_s=0.0)
    for node in ("n1", "n2"):
        book.note_contents(node, look, took_s=0.0)
    book.note_contents("n2", CheckedContents(5, False, [], [10, 11]), took_s=0.0)
    assert [(row[0], row[1]) for row in query(FINDINGS) if row[4]] == [
        ("no_reason", ""),
        ("content_lost", "n1"),
    ]
    assert book.open_examples(Invariant.CONTENT_LOST, "n1") == [3]
    assert book.open_examples(Invariant.CONTENT_LOST, "n2") == []


def test_ages_of_reasons_that_no_row_has_any_more_go(book: CheckBook, rows: list[int]) -> None:
    tally = book.tally(CONSUMERS)
    book.note_ledger([], tally, took_s=0.0)
    query("UPDATE ledger_row SET reason = 'new'")
    tally = book.tally(CONSUMERS)
    book.note_ledger([], tally, took_s=0.0)
    assert query("SELECT state, reason, rows FROM queue_age ORDER BY 1, 2") == [
        (0, "new", 4),
        (1, "", 3),
        (2, "", 1),
    ]


def test_a_node_tells_the_others_which_segments_it_has(book: CheckBook) -> None:
    query("INSERT INTO spool_node (node) VALUES ('n1'), ('n2')")
    ref = ContentRef(7, 16, 100, 2**32 - 1)
    book.note_contents("n2", CheckedContents(1, True, [], [3, 4], [Absent(9, ref)]), took_s=0.1)
    (shelf,) = book.other_shelves("n1")
    assert (shelf.node, shelf.segments) == ("n2", frozenset({3, 4}))
    assert shelf.age_s is not None
    (silent,) = book.other_shelves("n2")
    assert (silent.node, silent.age_s) == ("n1", None)
    assert book.last_contents("n1") == (None, ())
    assert list(book.last_contents("n2")[1]) == [Absent(9, ref)]


def test_one_process_checks_the_ledger_at_a_time(book: CheckBook, dsn: str) -> None:
    other = CheckBook(dsn)
    assert book.lead()
    assert not other.lead()
    book.release()
    assert other.lead()
    other.close()


def test_every_invariant_of_the_ledger_is_broken_by_a_test_here() -> None:
    lanes = {Invariant.LANE_COUNTS, Invariant.LANE_LATE, Invariant.DEAD_PROCESS}
    assert {case[0] for case in BROKEN.values()} | lanes == set(OF_LEDGER)
