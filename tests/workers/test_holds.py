"""What is held does not begin: not rung for, not claimed, given back from the queues, parked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from mailcore.bells import DrainBell, Path
from mailcore.envelope import QueuedRow
from mailcore.holds import HeldLanes, Hold, HoldScope, HoldSet
from mailcore.outcome import MailClass, RowState, WaitReason
from mailcore.policy.model import PolicySnapshot
from mailcore.ports import DueLane, Endpoint, WireMessage
from mailcore.routing.held import held_senders, hold_on, sources_left
from tests.support.builders import DOMAIN, NODE, NOW, SITE, policy, row
from tests.support.fake_stores import MemoryLedger
from tests.support.fakes import Answer, ScriptedConnection, ScriptedReceiver, World, world
from workers.engines.drain import Dispatcher
from workers.engines.ring import Ringer
from workers.engines.route import route_domains
from workers.engines.settle import Rules, Settler

BELL = DrainBell(NODE, MailClass.MAIN, (Path(1, SITE),))
CAMPAIGN = 5
EVERY_SCOPE = [
    (HoldScope.EVERYTHING, 0),
    (HoldScope.NODE, NODE),
    (HoldScope.POOL, 1),
    (HoldScope.SOURCE, 1),
    (HoldScope.SENDER, 1),
    (HoldScope.ACCOUNT, 1),
    (HoldScope.CAMPAIGN, CAMPAIGN),
    (HoldScope.ISP, 1),
    (HoldScope.DOMAIN, DOMAIN),
]
OF_A_LANE_OR_SOURCE = EVERY_SCOPE[:-1]
SOMETHING_ELSE = [
    (HoldScope.NODE, "n2"),
    (HoldScope.POOL, 2),
    (HoldScope.SOURCE, 2),
    (HoldScope.SENDER, 2),
    (HoldScope.ACCOUNT, 2),
    (HoldScope.CAMPAIGN, 0),
    (HoldScope.ISP, 2),
    (HoldScope.DOMAIN, "other.test"),
]
scopes = pytest.mark.parametrize(("scope", "target"), EVERY_SCOPE)


def mail(number: int, **fields: object) -> QueuedRow:
    """Return a row that a hold of every scope can cover."""
    return replace(row(number), campaign_id=CAMPAIGN, **fields)  # type: ignore[arg-type]


def place(it: World, scope: HoldScope, target: int | str) -> None:
    """Let a hold be in force, in the database and in this process."""
    it.holds.place(scope, target)
    it.ledger.held_domains = {str(target)} if scope is HoldScope.DOMAIN else set()


def release(it: World) -> None:
    """Let nothing be held; what was parked waits for routing again, and finds its way."""
    it.holds.release()
    it.ledger.held_domains = set()
    for each in list(it.ledger.rows.values()):
        it.ledger.rows[each.id] = replace(each, site=SITE, isp_id=1)
        it.ledger.reasons.pop(each.id, None)


def waiting(it: World) -> set[tuple[RowState, WaitReason | None]]:
    """Return how the rows stand that are in the queue yet."""
    return {(each.state, it.ledger.reasons.get(each.id)) for each in it.ledger.rows.values()}


@asynccontextmanager
async def running(it: World) -> AsyncIterator[tuple[Dispatcher, Settler]]:
    """A delivery process at work."""
    await it.ports.lease.open()
    settler = Settler(it.ports)
    dispatcher = Dispatcher(it.ports, settler)
    loops = [asyncio.create_task(settler.run()), asyncio.create_task(dispatcher.run())]
    try:
        yield dispatcher, settler
    finally:
        if isinstance(it.ports.connector, SlowReceiver):
            it.ports.connector.may_answer.set()  # or a test that failed would never end
        await dispatcher.stop()
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)


async def until(what: Callable[[], bool]) -> None:
    """Wait for something to become true; pytest's timeout ends what never does."""
    while not what():
        await asyncio.sleep(0.005)


async def drained(it: World, bell: DrainBell = BELL) -> None:
    """Ring once and wait until the paths are quiet and all is settled."""
    async with running(it) as (dispatcher, settler):
        await dispatcher.ring(bell)
        await settler.flush()


# ── decisions ─────────────────────────────────────────────────────────────────────────────────


def holding(*placed: tuple[HoldScope, int | str]) -> HoldSet:
    return HoldSet.of(
        Hold(n, scope, *((target, "") if isinstance(target, int) else (0, target)), "", "", NOW)
        for n, (scope, target) in enumerate(placed)
    )


def test_a_pool_sends_from_the_sources_no_hold_covers() -> None:
    two = policy(sources=2)
    ids = [each.source_id for each in sources_left(two, holding((HoldScope.SOURCE, 1)), 1)]
    assert ids == [2]
    assert sources_left(two, holding((HoldScope.POOL, 1)), 1) == ()
    assert sources_left(two, holding((HoldScope.NODE, NODE)), 1) == ()
    assert len(sources_left(two, holding((HoldScope.POOL, 2)), 1)) == 2


def test_a_sender_is_held_when_its_pool_or_all_its_sources_are() -> None:
    two = policy(sources=2)
    assert held_senders(two, holding()) == []
    assert held_senders(two, holding((HoldScope.SOURCE, 1))) == []
    assert held_senders(two, holding((HoldScope.SOURCE, 1), (HoldScope.SOURCE, 2))) == [1]
    assert held_senders(two, holding((HoldScope.POOL, 1))) == [1]
    assert held_senders(two, holding((HoldScope.EVERYTHING, 0))) == [1]


@pytest.mark.parametrize(
    ("placed", "is_held"),
    [(one, True) for one in EVERY_SCOPE] + [(one, False) for one in SOMETHING_ELSE],
)
def test_a_row_is_held_by_what_covers_it(
    placed: tuple[HoldScope, int | str], is_held: bool
) -> None:
    snapshot = policy()
    found = hold_on(mail(1), snapshot, holding(placed), source=snapshot.sources[1])
    assert (found is not None) is is_held


# ── nothing begins ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("scope", "target"), OF_A_LANE_OR_SOURCE)
async def test_nothing_is_rung_for_what_is_held_until_it_is_released(
    scope: HoldScope, target: int | str
) -> None:
    it = world()
    it.ledger.add(mail(1), mail(2, mail_class=MailClass.PRIORITY))
    place(it, scope, target)
    ringer = Ringer(it.ports)
    assert await ringer.ring_once() == 0
    it.ledger.add(mail(3))  # accepted under the hold
    assert await ringer.ring_once() == 0
    release(it)
    assert await ringer.ring_once() > 0


@scopes
async def test_a_bell_rung_before_the_hold_brings_no_mail_under_way(
    scope: HoldScope, target: int | str
) -> None:
    it = world()
    it.ledger.add(*(mail(n) for n in range(1, 21)))
    priority = mail(21, mail_class=MailClass.PRIORITY, lane_id=10)
    it.ledger.add(priority)
    place(it, scope, target)
    bell = replace(BELL, mail_class=MailClass.PRIORITY)
    for each in (BELL, bell):
        await drained(it, each)
    assert it.receiver.endpoints == []
    assert {state for state, _ in waiting(it)} == {RowState.WAITING}
    release(it)
    for each in (BELL, bell):
        await drained(it, each)
    assert it.ledger.kinds() == ["delivered"] * 21


@pytest.mark.parametrize(("scope", "target"), SOMETHING_ELSE)
async def test_a_hold_on_something_else_stops_nothing(scope: HoldScope, target: int | str) -> None:
    it = world()
    it.ledger.add(*(mail(n) for n in range(1, 21)))
    place(it, scope, target)
    assert await Ringer(it.ports).ring_once() == 1
    await drained(it)
    assert it.ledger.kinds() == ["delivered"] * 20


async def test_the_other_sources_of_a_pool_send_what_a_held_one_does_not() -> None:
    it = world(policy(sources=2))
    it.ledger.add(*(mail(n) for n in range(1, 21)), mail(21, pinned_source_id=1))
    place(it, HoldScope.SOURCE, 1)
    await Ringer(it.ports).ring_once()
    assert [bell.paths for bell in it.bells.drains] == [(Path(2, SITE),)]
    await drained(it, replace(BELL, paths=(Path(1, SITE), Path(2, SITE))))
    assert it.ledger.kinds() == ["delivered"] * 21
    assert {endpoint.source_address for endpoint in it.receiver.endpoints} == {"127.0.100.2"}


# ── a hold that comes while mail flows ────────────────────────────────────────────────────────


class SlowConnection(ScriptedConnection):
    """A session whose answers come when the receiver lets them."""

    def __init__(self, receiver: SlowReceiver, endpoint: Endpoint) -> None:
        super().__init__(receiver, endpoint)
        self._may_answer = receiver.may_answer
        self._answering: set[asyncio.Task[None]] = set()

    def _finish(self, *told: Any) -> None:
        self._answering.add(asyncio.create_task(self._later(*told)))

    async def _later(self, *told: Any) -> None:
        await self._may_answer.wait()
        super()._finish(*told)


@dataclass
class SlowReceiver(ScriptedReceiver):
    """A receiver that tells of each message begun, and answers when it may."""

    def __post_init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.begun = 0

    def answer(self, message: WireMessage) -> Answer:
        self.begun += 1
        return super().answer(message)

    async def connect(self, endpoint: Endpoint) -> ScriptedConnection:
        await super().connect(endpoint)
        return SlowConnection(self, endpoint)


@dataclass
class SlowLedger(MemoryLedger):
    """A ledger that answers who claims when it may."""

    def __post_init__(self) -> None:
        self.may_look = asyncio.Event()
        self.may_look.set()
        self.waits = False

    async def lanes_of_sites(
        self,
        sites: Sequence[str],
        *,
        mail_class: MailClass,
        sender_ids: Sequence[int],
        held: HeldLanes = HeldLanes(),  # noqa: B008  frozen, and the default says "none"
    ) -> Sequence[DueLane]:
        self.waits = not self.may_look.is_set()
        await self.may_look.wait()
        return await super().lanes_of_sites(
            sites, mail_class=mail_class, sender_ids=sender_ids, held=held
        )


@scopes
async def test_what_has_begun_is_finished_and_what_is_queued_goes_back(
    scope: HoldScope, target: int | str
) -> None:
    it, receiver = world(), SlowReceiver()
    it.ports = replace(it.ports, connector=receiver)
    it.ledger.add(*(mail(n) for n in range(1, 41)))
    async with running(it) as (dispatcher, settler):
        ringing = asyncio.create_task(dispatcher.ring(BELL))
        await until(lambda: receiver.begun > 0)
        place(it, scope, target)
        begun = receiver.begun
        leased = [each for each in it.ledger.rows.values() if each.state is RowState.LEASED]
        assert len(leased) > begun
        # Those in the queue are in the ledger again before anybody has answered.
        await until(
            lambda: sum(each.state is RowState.LEASED for each in it.ledger.rows.values()) == begun
        )
        receiver.may_answer.set()
        await ringing
        await settler.flush()
    assert receiver.begun == begun
    assert it.ledger.kinds() == ["delivered"] * begun
    reasons = {it.ledger.reasons.get(each.id) for each in leased if each.id in it.ledger.rows}
    is_parked = scope is HoldScope.DOMAIN
    assert reasons == {WaitReason.HELD if is_parked else WaitReason.RETURNED}
    release(it)
    await drained(it)
    assert len(it.ledger.kinds()) == len(set(it.ledger.events)) == 40
    assert it.ledger.rows == {}


async def test_each_job_is_looked_at_before_it_begins_however_long_a_round_takes() -> None:
    it, receiver, ledger = world(), SlowReceiver(), SlowLedger()
    it.ports = replace(it.ports, connector=receiver, ledger=ledger)
    it.ledger = ledger
    ledger.add(*(mail(n) for n in range(1, 9)))
    async with running(it) as (dispatcher, settler):
        ringing = asyncio.create_task(dispatcher.ring(BELL))
        await until(lambda: receiver.begun > 0)
        ledger.may_look.clear()
        await until(lambda: ledger.waits)
        place(it, HoldScope.ISP, 1)
        begun = receiver.begun
        receiver.may_answer.set()
        await until(lambda: len(it.ledger.kinds()) == begun)
        await until(lambda: all(r.state is RowState.WAITING for r in it.ledger.rows.values()))
        ledger.may_look.set()
        await ringing
        await settler.flush()
    assert receiver.begun == begun
    assert len(it.ledger.rows) == 8 - begun


# ── held domains ──────────────────────────────────────────────────────────────────────────────


async def test_rows_of_a_held_domain_are_parked_and_others_of_their_site_are_sent() -> None:
    it = world()
    it.ledger.add(mail(1), replace(mail(2), recipient=row(2, recipient="a@other.test").recipient))
    it.resolver.mxs["other.test"] = await it.resolver.mx(DOMAIN)
    place(it, HoldScope.DOMAIN, DOMAIN)
    await drained(it)
    assert it.ledger.kinds() == ["delivered"]
    assert list(it.ledger.rows) == [1]
    assert waiting(it) == {(RowState.WAITING, WaitReason.HELD)}


async def test_rows_that_could_not_be_parked_go_back() -> None:
    it = world()
    it.ledger.add(mail(1))
    it.holds.place(HoldScope.DOMAIN, DOMAIN)  # released meanwhile, as the database knows
    await drained(it)
    assert waiting(it) == {(RowState.WAITING, WaitReason.RETURNED)}
    it.ledger.due_in_s.clear()
    it.ledger.park_fails = True
    await drained(it)
    assert waiting(it) == {(RowState.WAITING, WaitReason.RETURNED)}
    assert it.receiver.endpoints == []


async def test_a_held_domain_is_not_resolved_and_the_others_are() -> None:
    it = world()
    it.ledger.add(
        replace(row(1), site=""), replace(row(2, recipient="a@other.test"), site="", isp_id=0)
    )
    place(it, HoldScope.DOMAIN, DOMAIN)
    assert await route_domains(it.ports, Rules(it.policy)) == 2
    assert it.ledger.rows[1].site == ""
    assert it.ledger.reasons == {1: WaitReason.HELD}
    assert it.ledger.rows[2].site == "mx.other.test"
    assert await route_domains(it.ports, Rules(it.policy)) == 0


async def test_an_empty_snapshot_and_holds_of_what_is_gone_do_no_harm() -> None:
    it = world(PolicySnapshot(revision=1))
    it.ledger.add(mail(1))
    place(it, HoldScope.POOL, 99)
    assert await Ringer(it.ports).ring_once() == 0
    await drained(it)
    assert list(it.ledger.rows) == [1]
