"""Verbs beside mail that flows: nothing is lost, nothing is counted twice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event as Flag

import pytest

from mailcore.envelope import QueuedRow
from mailcore.outcome import RowState
from mailcore.rowfilter import RowFilter
from mailio.ledger import arrays, verbs_sql
from mailio.ledger.accept import Acceptor
from mailio.ledger.delivery import PgLedger
from mailio.ledger.pool import Session
from mailio.ledger.scan import Meant
from mailio.ledger.upkeep import LedgerUpkeep
from mailio.ledger.verbs import QueueVerbs
from tests.io.ledger import verbs as verbs_of
from tests.io.ledger import world
from tests.io.ledger.world import accept, claim_all, ends, message, query, waits

ANY_STATE = RowFilter(everything=True, states=(RowState.WAITING, RowState.UNKNOWN))
ROUNDS = 60


def send(dsn: str, stop: Flag) -> Counter[str]:
    """Claim and settle until told to stop and nothing is due; return what became of rows."""

    async def loop() -> Counter[str]:
        ledger, draw = PgLedger(dsn), random.Random(7)
        number = await ledger.register(node="n", process="p", journal="j")
        ended: Counter[str] = Counter()
        while True:
            was_told = stop.is_set()
            rows = await claim_all(ledger, number, budget=9)
            if not rows and was_told:
                break
            parts: dict[str, list[QueuedRow]] = {"end": [], "wait": [], "unknown": []}
            for row in rows:
                # In the end all wait long, so that there is an end.
                parts["wait" if was_told else draw.choice(list(parts))].append(row)
            delay_s = 600.0 if was_told else 0.0
            ended["delivered"] += await ledger.settle(ends(parts["end"])) if parts["end"] else 0
            await ledger.settle(waits(parts["wait"], delay_s=delay_s))
            await ledger.settle(waits(parts["unknown"], state=RowState.UNKNOWN))
        await ledger.retire(number)
        ledger.close()
        return ended

    return asyncio.run(loop())


def inject(dsn: str, stop: Flag) -> Counter[str]:
    side, count = Acceptor(dsn), 0
    for _ in range(ROUNDS):
        accept(side, *(message(f"{n}@d{n % 5}.test", sender_id=n % 2) for n in range(20)))
        count += 20
    side.close()
    stop.set()
    return Counter(accepted=count)


def purge_and_undo(dsn: str, stop: Flag, jobs: Sequence[int]) -> Counter[str]:
    side, done = QueueVerbs(dsn, looked_at=40, changed=15), Counter[str]()
    for job in jobs:
        done["purged"] += verbs_of.purge(side, ANY_STATE, job=job, turns=2).changed
        restored, _ = verbs_of.undo(side, job=job)
        done["restored"] += restored
    done["purged"] += verbs_of.purge(side, ANY_STATE, job=jobs[0] + 1000).changed
    side.close()
    return done


def retry_often(dsn: str, stop: Flag) -> Counter[str]:
    side = QueueVerbs(dsn, looked_at=40, changed=15)
    while not stop.is_set():
        verbs_of.retry(side, ANY_STATE)
    side.close()
    return Counter()


def test_verbs_beside_flowing_mail_keep_counts_and_accounting(dsn: str) -> None:
    stop = Flag()
    works: list[Callable[[], Counter[str]]] = [
        lambda: inject(dsn, stop),
        lambda: send(dsn, stop),
        lambda: send(dsn, stop),
        lambda: purge_and_undo(dsn, stop, range(1, 8)),
        lambda: purge_and_undo(dsn, stop, range(100, 108)),
        lambda: retry_often(dsn, stop),
    ]
    total: Counter[str] = Counter()
    with ThreadPoolExecutor(len(works)) as threads:
        for future in [threads.submit(work) for work in works]:
            total += future.result(timeout=50)
    world.assert_counts_agree()
    upkeep = LedgerUpkeep(dsn)
    assert upkeep.lane_differences() == []
    upkeep.close()
    queued = query("SELECT count(*) FROM ledger_row")[0][0]
    assert total["restored"] > 0
    assert total["delivered"] > 0
    assert total["accepted"] + total["restored"] == total["delivered"] + total["purged"] + queued
    told = verbs_of.told()
    kinds = Counter(event.kind for event in told)
    assert (kinds["purged"], kinds["accepted"]) == (total["purged"], total["restored"])
    assert len({event.event_id for event in told}) == len(told)


def test_two_undos_of_one_purge_at_once_restore_each_row_once(dsn: str, acceptor: Acceptor) -> None:
    accept(acceptor, *(message(f"{n}@d{n % 5}.test") for n in range(200)))
    first = QueueVerbs(dsn, changed=9)
    assert verbs_of.purge(first).changed == 200
    second = QueueVerbs(dsn, changed=7)
    with ThreadPoolExecutor(2) as threads:
        done = list(threads.map(lambda side: verbs_of.undo(side), (first, second)))
    assert sum(restored for restored, _ in done) == 200
    assert query("SELECT count(*), count(DISTINCT recipient) FROM ledger_row") == [(200, 200)]
    world.assert_counts_agree()
    for side in (first, second):
        side.close()


@pytest.mark.parametrize("statement", ["ease", "take"])
async def test_a_row_seen_waiting_that_became_unknown_meanwhile_is_left_alone(
    acceptor: Acceptor, ledger: PgLedger, incarnation: int, dsn: str, statement: str
) -> None:
    accept(acceptor, message("a@one.test"))
    rows = await claim_all(ledger, incarnation)
    await ledger.settle(waits(rows, state=RowState.UNKNOWN, delay_s=900))
    session = Session(dsn, role="test", statements=verbs_sql.STATEMENTS)
    ids, lanes = (arrays.numbers([number]) for number in (rows[0].id, rows[0].lane_id))
    seen = {state: arrays.numbers([state.value]) for state in RowState}
    assert session.call(statement, (ids, lanes, seen[RowState.WAITING])) == []
    assert len(session.call(statement, (ids, lanes, seen[RowState.UNKNOWN]))) == 1
    session.close()


def test_a_step_repeated_after_a_lost_answer_does_nothing_more(
    acceptor: Acceptor, dsn: str
) -> None:
    side = QueueVerbs(dsn, changed=5)
    accept(acceptor, *(message(f"{n}@d{n % 2}.test") for n in range(12)))
    meant = Meant(RowFilter(everything=True), verbs_of.now())
    arguments = {"job_id": 1, "rules": verbs_of.RULES, "reply": verbs_of.REPLY}
    first = side.purge_step(meant, meant.start(), **arguments)  # type: ignore[arg-type]
    repeated = side.purge_step(meant, meant.start(), **arguments)  # type: ignore[arg-type]
    assert (first.changed, repeated.changed) == (5, 5)
    verbs_of.purge(side, job=1)
    assert side.recorded(1) == 12
    assert verbs_of.kinds() == {"purged": 12}
    undone = side.undo_step(1, 0, rules=verbs_of.RULES, reply=verbs_of.BACK)
    again = side.undo_step(1, 0, rules=verbs_of.RULES, reply=verbs_of.BACK)
    assert (undone.restored, again.restored) == (5, 5)
    assert query("SELECT count(DISTINCT recipient) FROM ledger_row") == [(10,)]
    side.close()
