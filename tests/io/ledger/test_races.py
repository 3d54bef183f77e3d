"""What must hold whoever comes at the same moment."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from mailcore.envelope import QueuedRow
from mailcore.outcome import RowState, WaitReason
from mailcore.ports import DomainRoute, LaneClaim
from mailcore.reply import SmtpReply
from mailio.ledger.accept import Acceptor
from mailio.ledger.delivery import PgLedger
from mailio.ledger.upkeep import LedgerUpkeep
from tests.io.ledger import world
from tests.io.ledger.world import accept, claim_all, ends, message, query, waits

STUCK = """
SELECT r.state, r.reason, r.due_at <= now(), r.incarnation, r.unrouted_domain, l.id, l.site,
       l.waiting, l.leased, l.unknown, l.next_due_at <= now(), count(*)
  FROM ledger_row r LEFT JOIN ledger_lane l ON l.id = r.lane_id
 GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 LIMIT 20
"""
ACTIONS = ("accept", "accept", "claim", "claim", "end", "wait", "unknown", "stray", "route")
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


async def test_two_claimers_never_get_the_same_row(dsn: str, acceptor: Acceptor) -> None:
    accept(acceptor, *(message(f"{n}@d{n % 7}.test") for n in range(1500)))
    sides = [PgLedger(dsn) for _ in range(3)]
    numbers = [await side.register(node="n", process="p", journal="j") for side in sides]

    async def drain(side: PgLedger, number: int) -> list[int]:
        got: list[int] = []
        while rows := await side.claim(
            [LaneClaim(lane, 3) for lane in range(1, 8)], incarnation=number
        ):
            assert {row.claim_no for row in rows} == {1}
            got += [row.id for row in rows]
        return got

    taken = await asyncio.gather(*(drain(s, n) for s, n in zip(sides, numbers, strict=True)))
    every = [row_id for part in taken for row_id in part]
    assert sorted(every) == list(range(1, 1501))
    assert all(taken)
    for side in sides:
        side.close()
    world.assert_counts_agree()


async def test_mail_that_comes_in_during_a_claim_never_loses_its_due_time(
    dsn: str, ledger: PgLedger, incarnation: int
) -> None:
    # One lane, emptied again and again while two threads fill it one message at a time: each
    # claim computes the lane's next due time beside an accept that sets it.
    rounds = 250

    def fill() -> None:
        side = Acceptor(dsn)
        for _ in range(rounds):
            accept(side, message("a@one.test"))
        side.close()

    with ThreadPoolExecutor(2) as threads:
        futures = [threads.submit(fill) for _ in range(2)]
        got = 0
        while got < 2 * rounds:
            finished = all(future.done() for future in futures)
            rows = await claim_all(ledger, incarnation)
            got += len(rows)
            await ledger.settle(ends(rows))
            # With everybody gone a lane that is not due although it has rows would stay so.
            assert rows or not finished
    assert got == 2 * rounds
    world.assert_counts_agree()


@pytest.mark.parametrize("is_accept_first", [True, False])
async def test_a_claim_does_not_undo_an_accept_it_did_not_see(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int, is_accept_first: bool
) -> None:
    # The same race by hand: both wait for the lane, and the claim's snapshot has no second row.
    accept(acceptor, message("first@one.test"))
    hold = world.Held("SELECT 1 FROM ledger_lane FOR UPDATE")

    async def claim() -> list[str]:
        rows = await ledger.claim([LaneClaim(1, 5)], incarnation=incarnation)
        return [str(row.recipient) for row in rows]

    async def second() -> list[str]:
        await asyncio.to_thread(accept, acceptor, message("second@one.test"))
        return []

    calls = [second, claim] if is_accept_first else [claim, second]
    tasks = []
    for waiting, call in enumerate(calls, 1):
        tasks.append(asyncio.ensure_future(call()))
        await hold.until_waited_for(waiting)
    hold.release()
    claimed = [person for part in await asyncio.gather(*tasks) for person in part]
    assert claimed == ["first@one.test"]
    world.assert_counts_agree()
    (lane,) = await ledger.due_lanes(limit=5)
    assert lane.waiting == 1


async def test_everything_at_once_ends_each_row_once_and_counts_right(
    dsn: str, acceptor: Acceptor
) -> None:
    total, ended = 900, Counter[int]()
    before = query(DEADLOCKS)
    rng = random.Random(7)
    upkeep = LedgerUpkeep(dsn)
    sides = [PgLedger(dsn) for _ in range(3)]

    def fill(part: int) -> None:
        side = Acceptor(dsn)
        for start in range(0, total // 2, 10):
            people = [f"{part}-{start + n}@d{(start + n) % 9}.test" for n in range(10)]
            rng.shuffle(people)
            accept(side, *(message(p, site="" if p[-6] in "147" else None) for p in people))
        side.close()

    async def deliver(side: PgLedger) -> None:
        number = await side.register(node="n", process="p", journal="j")
        while sum(ended.values()) < total:
            rows = await claim_all(side, number, budget=5)
            draw = [rng.random() for _ in rows]
            done = [row for row, x in zip(rows, draw, strict=True) if x < 0.6]
            await side.settle(waits([r for r, x in zip(rows, draw, strict=True) if x >= 0.8]))
            stray = [r for r, x in zip(rows, draw, strict=True) if 0.6 <= x < 0.7]
            await side.return_strays(stray, DomainRoute("x", f"mx{len(rows) % 3}.test", 0, 60))
            kept = {row.id for row in stray if row.site == f"mx{len(rows) % 3}.test"}
            lost = [r for r, x in zip(rows, draw, strict=True) if 0.7 <= x < 0.8 or r.id in kept]
            await side.settle(waits(lost, state=RowState.UNKNOWN))
            await side.settle(ends(done))
            ended.update(row.id for row in done)

    async def route(side: PgLedger) -> None:
        reply = SmtpReply.local(451, "4.4.3", "no answer")
        while sum(ended.values()) < total:
            domains = await side.unrouted_domains(limit=3)
            await side.postpone_domains(domains[:1], delay_s=0.01, reply=reply)
            await side.apply_routes([DomainRoute(d, f"mx.{d}", 0, 60) for d in domains[1:]])
            await side.apply_routes([DomainRoute(d, f"mx.{d}", 0, 60) for d in domains[:1]])
            await asyncio.sleep(0.005)

    async def tidy(side: PgLedger) -> None:
        number = await side.register(node="n", process="upkeep", journal="")
        while sum(ended.values()) < total:
            rows = await asyncio.to_thread(upkeep.unknown_due, incarnation=number, limit=50)
            if rows and rng.random() < 0.5:
                await asyncio.to_thread(upkeep.reclaim, number)
                number = await side.register(node="n", process="upkeep", journal="")
            else:
                await side.settle(waits(rows, reason=WaitReason.RETURNED))
            await asyncio.to_thread(upkeep.drop_empty_lanes, 0.0)
            assert await asyncio.to_thread(upkeep.lane_differences) == []
            await asyncio.sleep(0.005)

    with ThreadPoolExecutor(2) as threads:
        filling = [threads.submit(fill, part) for part in range(2)]
        work = asyncio.gather(*map(deliver, sides[:2]), route(sides[2]), tidy(sides[2]))
        try:
            await asyncio.wait_for(work, 40)
        except TimeoutError:
            pytest.fail(f"{total - sum(ended.values())} rows are stuck: {query(STUCK)}")
        assert [future.result(10) for future in filling] == [None, None]
    assert len(ended) == total
    assert set(ended.values()) == {1}
    assert query("SELECT count(*) FROM ledger_row") == [(0,)]
    assert query("SELECT sum(waiting + leased + unknown) FROM ledger_lane") in [[(0,)], [(None,)]]
    world.assert_counts_agree()
    assert query(DEADLOCKS)[0][0] - before[0][0] <= 5  # between two routed lanes: tried again
    for side in sides:
        side.close()
    upkeep.close()


async def test_counts_hold_through_any_order_of_operations(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int, dsn: str
) -> None:
    rng = random.Random(20)
    upkeep = LedgerUpkeep(dsn)
    leased: dict[int, QueuedRow] = {}
    for step in range(150):
        pick = rng.sample(list(leased.values()), k=rng.randint(0, min(6, len(leased))))
        action = rng.choice(
            ("accept", "accept", "claim", "end", "wait", "unknown", "stray", "route")
        )
        if action == "accept":
            accept(
                acceptor,
                *(
                    message(
                        f"{step}-{n}@d{rng.randrange(4)}.test",
                        site=rng.choice(["", None]),
                        delay_s=rng.choice([0, 0, 60]),
                    )
                    for n in range(rng.randint(1, 8))
                ),
            )
        elif action == "claim":
            leased |= {r.id: r for r in await claim_all(ledger, incarnation, budget=3)}
        elif action == "route":
            domain = f"d{rng.randrange(4)}.test"
            await ledger.apply_routes([DomainRoute(domain, f"mx.{domain}", 0, 60)])
        elif action == "stray":
            await ledger.return_strays(pick, DomainRoute("x", "stray.test", 0, 60))
            leased = {k: r for k, r in leased.items() if r not in pick or r.site == "stray.test"}
        else:
            settlement = (
                ends(pick)
                if action == "end"
                else waits(pick, delay_s=rng.choice([0, 60]))
                if action == "wait"
                else waits(pick, state=RowState.UNKNOWN)
            )
            assert await ledger.settle(settlement) == len(pick)
            leased = {k: r for k, r in leased.items() if r not in pick}
        world.assert_counts_agree()
    assert upkeep.lane_differences() == []
    assert upkeep.reclaim(incarnation) == len(leased)
    world.assert_counts_agree()
    upkeep.close()
