"""Chores: expire, reap, recount, prune."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mailcore.outcome import RowState
from mailcore.ports import Chores, DeadIncarnation
from mailio.ledger.accept import Acceptor, IdempotencyKey
from mailio.ledger.delivery import PgLedger
from mailio.ledger.outbox import PgOutbox
from mailio.ledger.upkeep import LaneDifference, LedgerUpkeep
from tests.io.ledger import world
from tests.io.ledger.world import accept, claim_all, ends, message, query, waits


@pytest.fixture
def upkeep(dsn: str) -> Iterator[LedgerUpkeep]:
    side = LedgerUpkeep(dsn)
    yield side
    side.close()


@pytest.fixture
async def sweeper(ledger: PgLedger) -> int:
    return await ledger.register(node="n1", process="upkeep", journal="")


def test_it_does_the_chores_the_engines_ask_for(upkeep: LedgerUpkeep) -> None:
    port: Chores = upkeep
    assert port.recount_lanes() == 0


async def test_expiry_applies_to_waiting_and_unknown_rows_and_leaves_deliveries_alone(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int, upkeep: LedgerUpkeep, sweeper: int
) -> None:
    accept(acceptor, *(message(f"{n}@one.test", lifetime_s=0) for n in range(3)))
    accept(acceptor, message("fresh@one.test"))
    rows = await claim_all(ledger, incarnation)
    await ledger.settle(waits(rows[:1]))
    await ledger.settle(waits(rows[1:2], state=RowState.UNKNOWN))
    assert len(upkeep.select_expired(incarnation=sweeper, limit=1)) == 1
    assert len(upkeep.select_expired(incarnation=sweeper, limit=9)) == 1
    assert upkeep.select_expired(incarnation=sweeper, limit=9) == []
    world.assert_counts_agree()
    leased = upkeep.rows_of_incarnation(sweeper, 9)
    assert [(str(row.recipient), row.state, row.claim_no) for row in leased] == [
        ("0@one.test", RowState.LEASED, 2),
        ("1@one.test", RowState.LEASED, 2),
    ]
    assert await ledger.settle(ends(leased)) == 2
    world.assert_counts_agree()


async def test_unknown_rows_come_up_when_they_are_due(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int, upkeep: LedgerUpkeep, sweeper: int
) -> None:
    accept(acceptor, message("now@one.test"), message("then@one.test"))
    rows = await claim_all(ledger, incarnation)
    await ledger.settle(waits(rows[:1], state=RowState.UNKNOWN))
    await ledger.settle(waits(rows[1:], state=RowState.UNKNOWN, delay_s=60))
    (row,) = upkeep.unknown_due(incarnation=sweeper, limit=9)
    assert (str(row.recipient), row.attempt, row.claim_no) == ("now@one.test", 1, 2)
    world.assert_counts_agree()


async def test_the_silent_are_dead_by_the_lease_here_and_much_later_elsewhere(
    ledger: PgLedger, upkeep: LedgerUpkeep
) -> None:
    for node, silent_s in (("n1", 0), ("n1", 90), ("n2", 90), ("n2", 1000)):
        number = await ledger.register(node=node, process=f"p{silent_s}", journal=f"j{silent_s}")
        query(
            "UPDATE ledger_incarnation SET heartbeat_at = now() - make_interval(secs => %s)"
            " WHERE id = %s",
            silent_s,
            number,
        )
    query("SELECT pg_sleep(0.01)")
    found = upkeep.dead_incarnations(node="n1", lease_s=0.005, lost_after_s=900)
    # The server of the tests is younger than a true lease, so one of 5 ms is used here.
    assert [(dead.node, dead.process) for dead in found if dead.process != "p0"] == [
        ("n1", "p90"),
        ("n2", "p1000"),
    ]
    assert DeadIncarnation(2, "n1", "p90", "j90") in found


async def test_nobody_is_judged_within_a_lease_of_the_databases_return(
    dsn: str, ledger: PgLedger, upkeep: LedgerUpkeep
) -> None:
    await ledger.register(node="n1", process="p", journal="j")
    query("UPDATE ledger_incarnation SET heartbeat_at = now() - interval '1 day'")
    assert upkeep.dead_incarnations(node="n1", lease_s=10**6) == []  # the server is younger
    assert len(upkeep.dead_incarnations(node="n1", lease_s=0.001)) == 1
    query(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE application_name = 'postfleet-upkeep' AND datname = current_database()"
    )
    assert upkeep.dead_incarnations(node="n1", lease_s=30, lost_after_s=30) == []


async def test_a_dead_process_leaves_doubtful_rows_unknown_and_gives_back_the_rest(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int, upkeep: LedgerUpkeep
) -> None:
    accept(acceptor, *(message(f"{n}@one.test") for n in range(4)))
    rows = await claim_all(ledger, incarnation)
    doubtful = [(rows[0].id, 1), (rows[1].id, 77), (999, 1)]
    count = upkeep.reclaim(
        incarnation, doubtful, unknown_delay_s=60, events=b"unknown", event_count=1
    )
    assert count == 4
    assert (
        query(
            "SELECT state, reason, incarnation IS NULL, due_at > now() FROM ledger_row ORDER BY id"
        )
        == [(2, "unknown_outcome", True, True)] + [(0, "reclaimed", True, False)] * 3
    )
    assert query("SELECT count(*) FROM ledger_outbox WHERE body = 'unknown'") == [(1,)]
    world.assert_counts_agree()
    # It is known to be dead until it is buried, and cannot come back to life.
    assert not await ledger.heartbeat(incarnation)
    assert [d.number for d in upkeep.dead_incarnations(node="n9")] == [incarnation]
    # What it did deliver is true, and what it wants to defer is not its any more.
    assert await ledger.settle(waits(rows[2:3])) == 0
    assert await ledger.settle(ends(rows[3:])) == 1
    upkeep.bury(incarnation)
    assert upkeep.dead_incarnations(node="n9") == []
    world.assert_counts_agree()


async def test_rows_of_a_claim_that_committed_after_the_burial_are_found(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int, upkeep: LedgerUpkeep
) -> None:
    accept(acceptor, message("a@one.test"))
    await claim_all(ledger, incarnation)
    upkeep.bury(incarnation)
    assert [d.number for d in upkeep.dead_incarnations(node="n1")] == [incarnation]
    assert upkeep.reclaim(incarnation) == 1
    assert upkeep.dead_incarnations(node="n1") == []


def test_counts_that_differ_are_told_and_mended(acceptor: Acceptor, upkeep: LedgerUpkeep) -> None:
    accept(acceptor, message("a@one.test"), message("a@two.test"), message("a@three.test"))
    query("UPDATE ledger_lane SET waiting = 5, leased = -1 WHERE site = 'mx.one.test'")
    query("UPDATE ledger_lane SET next_due_at = 'infinity' WHERE site = 'mx.two.test'")
    ids = dict(query("SELECT site, id FROM ledger_lane"))
    expected = [
        LaneDifference(ids["mx.one.test"], (5, -1, 0), (1, 0, 0), False),
        LaneDifference(ids["mx.two.test"], (1, 0, 0), (1, 0, 0), True),
    ]
    assert sorted(upkeep.mend_lanes(), key=lambda d: -d.stored[0]) == expected
    assert upkeep.recount_lanes() == 0
    world.assert_counts_agree()


async def test_only_lanes_long_empty_are_dropped(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int, upkeep: LedgerUpkeep
) -> None:
    accept(acceptor, message("a@one.test"), message("a@two.test"), message("a@three.test"))
    rows = await claim_all(ledger, incarnation)
    await ledger.settle(ends(rows[:2]))
    query("UPDATE ledger_lane SET used_at = now() - interval '2 h' WHERE site <> 'mx.two.test'")
    assert upkeep.drop_empty_lanes() == 1
    assert query("SELECT site FROM ledger_lane ORDER BY 1") == [
        ("mx.three.test",),
        ("mx.two.test",),
    ]
    accept(acceptor, message("b@one.test"))
    world.assert_counts_agree()


def test_the_outbox_is_pruned_no_further_than_the_slowest_consumer(
    dsn: str, upkeep: LedgerUpkeep
) -> None:
    outbox = PgOutbox(dsn)
    for age_s in (1000, 999, 998, 0):
        query(
            "INSERT INTO ledger_outbox (created_at, event_count, body)"
            " VALUES (now() - make_interval(secs => %s), 1, %s)",
            age_s,
            str(age_s).encode(),
        )
    assert upkeep.prune_outbox(600) == 0  # nobody has read yet
    for consumer, seen in (("fast", 4), ("slow", 2)):
        outbox.advance(consumer, outbox.read(consumer, limit=seen)[-1].cursor)
    assert upkeep.prune_outbox(600) == 2
    outbox.advance("slow", outbox.read("slow", limit=9)[-1].cursor)
    assert upkeep.prune_outbox(0) == 1  # never the last minutes, whatever is asked
    assert [bytes(row[0]) for row in query("SELECT body FROM ledger_outbox")] == [b"0"]
    outbox.close()


def test_old_answers_routes_and_lives_are_pruned(acceptor: Acceptor, upkeep: LedgerUpkeep) -> None:
    accept(acceptor, message(key=IdempotencyKey(1, "old", b"", "")))
    query("UPDATE ledger_idempotency SET created_at = now() - interval '2 d'")
    accept(acceptor, message(key=IdempotencyKey(1, "new", b"", "")))
    accept(acceptor, message(key=IdempotencyKey(0, "a report", b"", "")))
    query("UPDATE ledger_idempotency SET created_at = now() - interval '89 d' WHERE account_id = 0")
    assert upkeep.prune_idempotency(86400) == 1
    query("UPDATE ledger_idempotency SET created_at = now() - interval '91 d' WHERE account_id = 0")
    assert upkeep.prune_idempotency(86400) == 1
    query(
        "INSERT INTO ledger_route VALUES ('a.test', 'x', 0, now()), ('b.test', 'x', 0, 'infinity')"
    )
    assert upkeep.prune_routes() == 1
    query(
        "INSERT INTO ledger_incarnation (node, process, journal, ended_at)"
        " VALUES ('n', 'p', 'j', now() - interval '2 d'), ('n', 'p', 'j', NULL)"
    )
    assert upkeep.prune_incarnations(86400) == 1
