"""Holds in SQL: lanes left out, rows of held domains parked and let go, counts always exact."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import psycopg2
import pytest

from mailcore.envelope import QueuedRow
from mailcore.holds import HeldLanes
from mailcore.outcome import MailClass, RowState, WaitReason
from mailcore.ports import DomainRoute
from mailcore.reply import SmtpReply
from mailio.ledger import delivery_sql, routes
from mailio.ledger.accept import Acceptor
from mailio.ledger.delivery import PgLedger
from mailio.ledger.pool import Profile
from mailio.ledger.upkeep import LedgerUpkeep
from tests.io.ledger import world
from tests.io.ledger.world import (
    Held,
    accept,
    claim_all,
    hold_domain,
    message,
    query,
    release,
    waits,
)

ROWS = (
    "SELECT r.recipient, l.site, r.state, r.reason, r.unrouted_domain, r.due_at = r.expires_at"
    " FROM ledger_row r JOIN ledger_lane l ON l.id = r.lane_id ORDER BY r.id"
)
LANE_OF_MANY, LANE_OF_ONE = 1, 2


@pytest.fixture
def chores(dsn: str) -> Iterator[LedgerUpkeep]:
    side = LedgerUpkeep(dsn)
    yield side
    side.close()


async def parked(ledger: PgLedger, incarnation: int) -> list[QueuedRow]:
    """Claim all there is and park it."""
    rows = await claim_all(ledger, incarnation)
    assert await ledger.park(rows) == len(rows)
    return rows


# ── lanes ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("held", "left"),
    [
        (HeldLanes(), ["a.test", "b.test"]),
        (HeldLanes(senders=(2,)), ["b.test"]),
        (HeldLanes(accounts=(3,)), ["b.test"]),
        (HeldLanes(campaigns=(1,)), ["b.test"]),
        (HeldLanes(isps=(9,)), ["b.test"]),
        (HeldLanes(senders=(1, 2)), []),
        (HeldLanes(senders=(7,), accounts=(7,), campaigns=(7,), isps=(7,)), ["a.test", "b.test"]),
    ],
)
async def test_a_look_at_the_lanes_leaves_out_what_is_held(
    acceptor: Acceptor, ledger: PgLedger, held: HeldLanes, left: list[str]
) -> None:
    accept(
        acceptor,
        message("x@a.test", site="a.test", sender_id=2, account_id=3, campaign_id=1),
        message("y@b.test", site="b.test"),
    )
    query("UPDATE ledger_lane SET isp_id = 9 WHERE site = 'a.test'")
    assert sorted(lane.site for lane in await ledger.due_lanes(limit=9, held=held)) == left
    lanes = await ledger.lanes_of_sites(
        ["a.test", "b.test"], mail_class=MailClass.MAIN, sender_ids=[1, 2], held=held
    )
    assert sorted(lane.site for lane in lanes) == left


def fill(lane_id: int, count: int, *, reason: str = "new", domain: str | None = None) -> None:
    """Put rows that are due into a lane."""
    query(
        "INSERT INTO ledger_row (lane_id, recipient_no, due_at, expires_at, message_id,"
        " content_segment, content_offset, content_length, content_crc, recipient, reverse_path,"
        " header_from, message_id_header, reason, unrouted_domain)"
        " SELECT %s, 0, now() - interval '1 min', now() + '1 h',"
        " gen_random_uuid(), n / 1000, 0, 100, 0, n || '@d.test', 'b@from.test', 'from.test',"
        " '<x>', %s, %s FROM generate_series(1, %s) AS n",
        lane_id,
        reason,
        domain,
        count,
    )


def visited(plan: str) -> int:
    """Return how many rows of the queue a plan visited, those filtered out included."""
    scans = re.findall(
        r"on ledger_row \w*.*?rows=(\d+) loops=(\d+)(?:(?!->).)*?(?:Removed by Filter: (\d+))?",
        plan,
        re.DOTALL,
    )
    return sum((int(n) + int(gone or 0)) * int(loops) for n, loops, gone in scans)


def pages(plan: str) -> int:
    """Return how many pages a plan read in all."""
    return sum(int(n) for n in re.findall(r"(?:hit|read)=(\d+)", plan.split("->")[0]))


def test_a_queue_of_held_rows_costs_nothing_whatever_its_length(dsn: str) -> None:
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    explain = "EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF) EXECUTE"
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE ledger_row, ledger_lane")
        cursor.execute(Profile.HOT.value)
        cursor.execute(f"PREPARE due_lanes AS {delivery_sql.DUE_LANES}")
        cursor.execute(f"PREPARE domains AS {routes.DOMAINS}")
        query(
            "INSERT INTO ledger_lane (sender_id, account_id, mail_class, site, isp_id, next_due_at,"
            " waiting) SELECT 1, 1, 1, CASE n WHEN 3 THEN '' ELSE 'mx' || n || '.test' END,"
            " 6 + n, now() - interval '1 min', 1 FROM generate_series(1, 3) AS n"
        )
        fill(LANE_OF_ONE, 1)
        seen = []
        for count in (10, 200_000):
            fill(LANE_OF_MANY, count)
            fill(3, count, reason="held", domain="d.test")
            cursor.execute(f"{explain} due_lanes (100, 0, '{{}}', '{{}}', '{{}}', '{{7}}')")
            lanes = "\n".join(line for (line,) in cursor.fetchall())
            cursor.execute(f"{explain} domains (10000, 500)")
            domains = "\n".join(line for (line,) in cursor.fetchall())
            assert (visited(lanes), visited(domains)) == (1, 0), (lanes, domains)
            # Many holds are hashed, not gone through for each lane.
            assert lanes.count("NOT (hashed SubPlan") == 4, lanes
            seen.append((pages(lanes), pages(domains)))
    connection.close()
    few, many = seen
    # An index is a level deeper; it is not read longer.
    assert many[0] <= few[0] + 4, seen
    assert many[1] <= few[1] + 4, seen


# ── parking ───────────────────────────────────────────────────────────────────────────────────


async def test_rows_of_a_held_domain_wait_unrouted_and_nobody_looks_at_them(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int
) -> None:
    accept(
        acceptor,
        message("a@one.test", "b@two.test", site="mx.test"),
        message("c@one.test", site="mx.test", sender_id=2),
        message("d@one.test", site="mx.test"),
    )
    hold_domain()
    rows = await claim_all(ledger, incarnation)
    query("UPDATE ledger_row SET claim_no = 9 WHERE recipient = 'd@one.test'")  # no longer ours
    assert await ledger.park(rows) == 2
    assert query(ROWS) == [
        ("a@one.test", "", 0, "held", "one.test", True),
        ("b@two.test", "mx.test", 1, "new", None, False),
        ("c@one.test", "", 0, "held", "one.test", True),
        ("d@one.test", "mx.test", 1, "new", None, False),
    ]
    assert query("SELECT sender_id, waiting FROM ledger_lane WHERE site = '' ORDER BY 1") == [
        (1, 1),
        (2, 1),
    ]
    world.assert_counts_agree()
    assert await claim_all(ledger, incarnation) == []
    assert await ledger.unrouted_domains(limit=9) == []
    assert await ledger.unrouted_rows("one.test", limit=9) == []
    late = SmtpReply.local(451, "4.4.3", "no answer")
    assert await ledger.postpone_domains(["one.test"], delay_s=0, reply=late) == 0
    # Routing asked about the domain just before it was held.
    assert await ledger.apply_routes([DomainRoute("one.test", "mx.test", 0, 60)]) == 0
    # What its process gives back beside says nothing about those that are parked.
    await ledger.settle(waits(rows, reason=WaitReason.RETURNED))
    assert [row[3] for row in query(ROWS)] == ["held", "returned", "held", "new"]
    world.assert_counts_agree()


async def test_unrouted_rows_are_parked_when_due_and_only_then(
    acceptor: Acceptor, ledger: PgLedger
) -> None:
    accept(
        acceptor,
        message("now@one.test", site=""),
        message("later@one.test", site="", delay_s=60),
        message("now@two.test", site=""),
    )
    assert await ledger.park_domains(["one.test"]) == 0
    hold_domain()
    assert await ledger.park_domains(["one.test", "two.test"]) == 1
    assert await ledger.park_domains([]) == 0
    assert [row[3] for row in query(ROWS)] == ["held", "unrouted", "unrouted"]
    assert await ledger.unrouted_domains(limit=9) == ["two.test"]
    world.assert_counts_agree()


async def test_a_release_lets_every_row_go_by_the_usual_way(
    acceptor: Acceptor,
    ledger: PgLedger,
    incarnation: int,
    chores: LedgerUpkeep,
) -> None:
    accept(acceptor, message("a@one.test"), message("b@one.test"), message("c@two.test"))
    query("UPDATE ledger_row SET attempt = 2 WHERE recipient = 'b@one.test'")
    first, second = hold_domain(), hold_domain()
    hold_domain("two.test")
    await parked(ledger, incarnation)
    assert chores.unpark() == 0
    release(first)
    assert chores.unpark() == 0  # another hold is on the domain yet
    release(second)
    assert chores.unpark() == 2
    assert [row[3] for row in query(ROWS)] == ["new", "retry", "held"]
    world.assert_counts_agree()
    assert await ledger.unrouted_domains(limit=9) == ["one.test"]
    assert await ledger.apply_routes([DomainRoute("one.test", "mx.one.test", 3, 60)]) == 2
    assert len(await claim_all(ledger, incarnation)) == 2
    world.assert_counts_agree()


async def test_many_parked_rows_of_several_domains_are_let_go_in_pieces(
    acceptor: Acceptor, ledger: PgLedger, chores: LedgerUpkeep
) -> None:
    people = [f"u{n}@d{n % 2}.test" for n in range(5000)]
    accept(acceptor, *(message(person, site="") for person in people))
    numbers = [hold_domain(f"d{n}.test") for n in range(2)]
    assert await ledger.park_domains(["d0.test", "d1.test"]) == 5000
    for number in numbers:
        release(number)
    assert chores.unpark() == 5000
    assert query("SELECT DISTINCT reason, due_at <= now() FROM ledger_row") == [("new", True)]
    world.assert_counts_agree()
    assert chores.recount_lanes() == 0


async def test_nothing_is_parked_for_a_hold_that_is_over(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int
) -> None:
    accept(acceptor, message("a@one.test"), message("b@two.test"))
    hold_domain("one.test", ends_in_s=-1)
    release(hold_domain("two.test"))
    rows = await claim_all(ledger, incarnation)
    assert await ledger.park(rows) == 0
    assert [row[2] for row in query(ROWS)] == [RowState.LEASED, RowState.LEASED]
    world.assert_counts_agree()


async def test_a_hold_with_an_end_lets_go_when_its_end_has_come(
    acceptor: Acceptor,
    ledger: PgLedger,
    incarnation: int,
    chores: LedgerUpkeep,
) -> None:
    accept(acceptor, message("a@one.test"))
    hold_domain(ends_in_s=3600)
    await parked(ledger, incarnation)
    assert chores.unpark() == 0
    query("UPDATE queue_hold SET ends_at = now()")
    assert chores.unpark() == 1


async def test_a_row_parked_while_its_hold_is_released_is_let_go_all_the_same(
    acceptor: Acceptor,
    ledger: PgLedger,
    incarnation: int,
    chores: LedgerUpkeep,
) -> None:
    accept(acceptor, message("a@one.test"))
    number = hold_domain()
    rows = await claim_all(ledger, incarnation)
    # The parking statement has seen the hold and waits for the lane.
    others = Held("SELECT FROM ledger_lane FOR UPDATE")
    parking = asyncio.create_task(ledger.park(rows))
    await others.until_waited_for(1)
    release(number)
    assert chores.unpark() == 0
    others.release()
    assert await parking == 1
    assert [row[3] for row in query(ROWS)] == ["held"]
    assert chores.unpark() == 1
    assert [row[3] for row in query(ROWS)] == ["new"]
    world.assert_counts_agree()


async def test_a_row_parked_long_after_its_hold_was_over_is_let_go(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int, chores: LedgerUpkeep
) -> None:
    accept(acceptor, message("a@one.test"))
    number = hold_domain()
    await parked(ledger, incarnation)
    release(number)
    query("UPDATE queue_hold SET released_at = now() - interval '1 day'")
    assert chores.unpark() == 1
    query("UPDATE ledger_row SET reason = 'held'")  # one more slipped in
    assert chores.unpark() == 1


async def test_parked_rows_expire_as_others_do(
    acceptor: Acceptor,
    ledger: PgLedger,
    incarnation: int,
    chores: LedgerUpkeep,
) -> None:
    accept(acceptor, message("a@one.test"))
    hold_domain()
    await parked(ledger, incarnation)
    query("UPDATE ledger_row SET expires_at = now(), due_at = now()")
    query("UPDATE ledger_lane SET next_due_at = now() WHERE site = ''")
    assert await ledger.unrouted_domains(limit=9) == []
    (row,) = chores.select_expired(incarnation=incarnation, limit=9)
    assert str(row.recipient) == "a@one.test"
    world.assert_counts_agree()


async def test_parking_and_accepting_take_lanes_in_one_order(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int
) -> None:
    """Unrouted lanes come first: who holds one and wants a routed one meets nobody the other way
    round, so nothing is rolled back."""
    accept(acceptor, message("a@one.test"), message("b@two.test", site=""))
    hold_domain()
    rows = await claim_all(ledger, incarnation)
    unrouted = Held("SELECT FROM ledger_lane WHERE site = '' FOR UPDATE")
    parking = asyncio.create_task(ledger.park(rows))
    await unrouted.until_waited_for(1)
    # It waits for the unrouted lane and has not locked the routed one.
    assert query("SELECT site FROM ledger_lane WHERE site <> '' FOR UPDATE NOWAIT") == [
        ("mx.one.test",)
    ]
    unrouted.release()
    assert await parking == 1
    world.assert_counts_agree()


def test_undo_records_are_kept_for_their_time(dsn: str, chores: LedgerUpkeep) -> None:
    query("TRUNCATE queue_undo")
    query(
        "INSERT INTO queue_undo (job_id, row_id, saved_at, sender_id, account_id, campaign_id,"
        " mail_class, site, tls_need, isp_id, state, recipient_no, attempt, claim_no, due_at,"
        " accepted_at, expires_at, message_id, content_segment, content_offset, content_length,"
        " content_crc, recipient, reverse_path, header_from, message_id_header, custom,"
        " reason, last_reply)"
        " SELECT n, n, now() - n * interval '1 s', 1, 1, 0, 1, '', 0, 0, 0, 0, 0, 0, now(), now(),"
        " now(), gen_random_uuid(), 0, 0, 0, 0, 'a@b.test', '', '', '', '', 'new', ''"
        " FROM generate_series(0, 4999) AS n"
    )
    assert chores.prune_undo(1000.0) == 4000
    assert query("SELECT max(job_id) FROM queue_undo") == [(999,)]
    query("TRUNCATE queue_undo")
