"""What a delivery process holds is bounded, also while nothing can be settled; so is its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from mailcore.disposition import Settlement
from mailcore.envelope import QueuedRow
from mailcore.outcome import RowState
from mailcore.ports import Endpoint, LaneClaim, WireMessage
from tests.support.builders import NODE, row
from tests.support.fake_stores import MemoryLedger
from tests.support.fakes import (
    OneTransaction,
    ScriptedConnection,
    ScriptedReceiver,
    World,
    world,
)
from tests.workers.test_drain import BELL, running, until
from tests.workers.test_drain_troubles import QUICK
from workers.engines.drain import Dispatcher

ROWS = 200
MOST = 20


@dataclass
class StalledLedger(MemoryLedger):
    """A ledger that claims, and does not come to the end of a settle before it may."""

    may_settle: asyncio.Event = field(default_factory=asyncio.Event)
    most_leased: int = 0

    @property
    def leased(self) -> int:
        """How many rows are with the process."""
        return sum(each.state is RowState.LEASED for each in self.rows.values())

    async def claim(
        self, requests: Sequence[LaneClaim], *, incarnation: int
    ) -> Sequence[QueuedRow]:
        taken = await super().claim(requests, incarnation=incarnation)
        self.most_leased = max(self.most_leased, self.leased)
        return taken

    async def settle(self, settlement: Settlement) -> int:
        await self.may_settle.wait()
        return await super().settle(settlement)


def world_of(ledger: MemoryLedger) -> World:
    it = world(limits=replace(QUICK, rows=MOST))
    lease = type(it.ports.lease)(ledger, it.ports.clock, node=NODE, process="p", journal="p")
    return replace(it, ledger=ledger, ports=replace(it.ports, ledger=ledger, lease=lease))


async def rounds(count: int) -> None:
    """Let the dispatcher look so many times."""
    for _ in range(count):
        await asyncio.sleep(QUICK.dry_gap_s)


async def all_sent(
    ringing: asyncio.Task[None], dispatcher: Dispatcher, ledger: MemoryLedger
) -> None:
    """Ring until nothing is due, as the ringer does: a path that got nothing for a while closes."""
    await ringing
    while any(each.state is RowState.WAITING for each in ledger.rows.values()):
        await dispatcher.ring(BELL)


async def test_a_settle_that_does_not_end_lets_no_more_be_claimed_than_may_be_held() -> None:
    ledger = StalledLedger()
    it = world_of(ledger)
    ledger.add(*(row(n) for n in range(1, ROWS + 1)))
    async with running(it) as (dispatcher, settler):
        ringing = asyncio.create_task(dispatcher.ring(BELL))
        await until(lambda: settler.pending == MOST)
        await rounds(5)
        assert (settler.pending, ledger.leased, len(it.journal.live)) == (MOST, MOST, MOST)
        assert len(it.receiver.delivered) == MOST
        ledger.may_settle.set()
        await all_sent(ringing, dispatcher, ledger)
        await settler.flush()
    assert ledger.most_leased <= MOST
    assert ledger.kinds() == ["delivered"] * ROWS
    assert it.journal.live == set()


async def test_while_the_database_is_away_outcomes_wait_and_all_goes_on_by_itself() -> None:
    ledger = StalledLedger()
    ledger.may_settle.set()
    it = world_of(ledger)
    ledger.add(*(row(n) for n in range(1, ROWS + 1)))
    async with running(it) as (dispatcher, settler):
        ringing = asyncio.create_task(dispatcher.ring(BELL))
        await until(lambda: bool(it.receiver.delivered))
        ledger.is_away = True
        await until(lambda: settler.is_stuck or settler.pending == 0)
        await rounds(5)
        assert settler.pending <= MOST
        assert ledger.leased <= MOST
        ledger.is_away = False
        await all_sent(ringing, dispatcher, ledger)
        await settler.flush()
    assert len(it.receiver.delivered) == ROWS
    assert ledger.rows == {}


class SilentConnection(ScriptedConnection):
    """A session in which nothing is said after the final dot."""

    def begin(
        self, message: WireMessage, *, before_dot: Callable[[Sequence[int]], bool]
    ) -> OneTransaction:
        transaction = OneTransaction()
        assert before_dot(range(len(message.forward_paths)))
        transaction.content_sent.set_result(None)
        return transaction


class SilentReceiver(ScriptedReceiver):
    """It takes its time."""

    async def connect(self, endpoint: Endpoint) -> ScriptedConnection:
        self.open += 1
        return SilentConnection(self, endpoint)


async def test_a_stop_says_what_it_left_on_the_wire_and_lets_the_journal_tell_of_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    it = world(limits=QUICK)
    receiver = SilentReceiver()
    it = replace(it, receiver=receiver, ports=replace(it.ports, connector=receiver))
    it.ledger.add(row(1))
    async with running(it) as (dispatcher, _):
        ringing = asyncio.create_task(dispatcher.ring(BELL))
        await until(lambda: bool(it.journal.live))
        with caplog.at_level(logging.WARNING):
            await dispatcher.stop(within_s=0.05)
        ringing.cancel()
    (told,) = [record for record in caplog.records if record.message == "left on the wire"]
    assert (told.__dict__["sessions"], told.__dict__["recipients"]) == (1, 1)
    assert receiver.open == 0
    # Nothing was settled: who reads the journal makes it unknown, and nobody sends it again.
    assert it.ledger.kinds() == []
    assert it.ledger.rows[1].state is RowState.LEASED
    assert len(it.journal.live) == 1
