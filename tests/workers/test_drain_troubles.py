"""Draining when something of ours fails half way: no row is forgotten, sent twice or held back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from mailcore.bells import DrainBell, Path
from mailcore.dkim import DkimKeyError
from mailcore.envelope import QueuedRow
from mailcore.outcome import MailClass, RowState, Scope, WaitReason
from mailcore.policy.model import DkimKey, PolicySnapshot, SendingDomain, Strategy
from mailcore.ports import (
    ConnectFailed,
    DnsStatus,
    DomainRoute,
    Endpoint,
    Grant,
    LaneClaim,
    MxAnswer,
    MxHost,
    StoreUnavailable,
    WireMessage,
)
from mailcore.reply import SmtpReply
from tests.support.builders import NODE, SITE, policy, row
from tests.support.fake_stores import MemoryLedger
from tests.support.fakes import (
    OneTransaction,
    ScriptedConnection,
    ScriptedReceiver,
    World,
    world,
)
from tests.workers.test_drain import BELL, drained, running, until
from workers.engines.context import Limits

QUICK = Limits(linger_s=0.05, idle_s=0.05, dry_gap_s=0.01, round_gap_s=0.002)
DEFERRED_LOCALLY = SmtpReply.local(451, "4.4.1", "refused")


@dataclass
class HalfAwayLedger(MemoryLedger):
    """A ledger that is lost between a claim and what the claim is followed by."""

    lost_looks: int = 0
    lost_moves: int = 0
    lost_claims_of: MailClass | None = None

    async def stopped(self, recipients: Collection[tuple[int, str]]) -> Collection[tuple[int, str]]:
        if self.lost_looks:
            self.lost_looks -= 1
            raise StoreUnavailable("postgresql", "restarting")
        return await super().stopped(recipients)

    async def return_strays(self, rows: Sequence[QueuedRow], route: DomainRoute) -> int:
        if self.lost_moves:
            self.lost_moves -= 1
            raise StoreUnavailable("postgresql", "restarting")
        return await super().return_strays(rows, route)

    async def claim(
        self, requests: Sequence[LaneClaim], *, incarnation: int
    ) -> Sequence[QueuedRow]:
        wanted = self.lost_claims_of
        if wanted is not None and any(r.lane_id % 10 == wanted for r in requests):
            self.lost_claims_of = None
            raise StoreUnavailable("postgresql", "restarting")
        return await super().claim(requests, incarnation=incarnation)


def world_of(ledger: HalfAwayLedger) -> World:
    it = world()
    lease = type(it.ports.lease)(ledger, it.ports.clock, node=NODE, process="p", journal="p")
    return replace(it, ledger=ledger, ports=replace(it.ports, ledger=ledger, lease=lease))


async def test_rows_claimed_when_the_ledger_was_lost_a_moment_later_are_not_forgotten() -> None:
    ledger = HalfAwayLedger(lost_looks=1)
    it = world_of(ledger)
    ledger.add(row(1), row(2, expires_in_s=-1))
    async with running(it) as (dispatcher, settler):
        await dispatcher.ring(BELL)
        await settler.flush()
        assert [each.state for each in ledger.rows.values()] in ([], [RowState.WAITING])
        ledger.due_in_s.clear()
        await dispatcher.ring(BELL)
        await settler.flush()
    assert sorted(ledger.kinds()) == ["delivered", "expired"]


async def test_strays_that_could_not_be_moved_are_given_back_and_the_others_are_sent() -> None:
    ledger = HalfAwayLedger(lost_moves=1)
    it = world_of(ledger)
    ledger.add(row(1), row(2, recipient="x@moved.test"))
    it.resolver.mxs["moved.test"] = MxAnswer(DnsStatus.OK, (MxHost(10, "mx.elsewhere.test"),))
    await drained(it)
    assert ledger.kinds() == ["delivered"]
    assert all(each.state is RowState.WAITING for each in ledger.rows.values())


async def test_a_claim_that_fails_for_bulk_does_not_lose_the_priority_rows_claimed_before() -> None:
    ledger = HalfAwayLedger(lost_claims_of=MailClass.MAIN)
    it = world_of(ledger)
    ledger.add(row(1, mail_class=MailClass.PRIORITY), row(2))
    async with running(it) as (dispatcher, settler):
        await asyncio.gather(
            dispatcher.ring(DrainBell(NODE, MailClass.PRIORITY, (Path(1, SITE),))),
            dispatcher.ring(BELL),
        )
        await settler.flush()
    assert ledger.kinds() == ["delivered", "delivered"]


# ── keys and contents ─────────────────────────────────────────────────────────────────────────


class BrokenVault:
    """A vault whose secrets cannot be opened."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def open(self, secret_ref: str) -> bytes:
        raise self._error


def policy_with_key() -> PolicySnapshot:
    base = policy()
    domains = dict(base.sending_domains)
    domains["signed.test"] = SendingDomain(2, "signed.test", (1,), "", dkim_key_ids=(1,))
    keys = {1: DkimKey(1, "signed.test", "s1", "rsa-sha256", "dkim:1")}
    return replace(base, sending_domains=domains, dkim_keys=keys)


@pytest.mark.parametrize(
    "error", [DkimKeyError("not a key"), LookupError("there is no secret dkim:1")]
)
async def test_a_key_that_cannot_be_used_defers_the_mail_of_its_domain_alone(
    error: Exception,
) -> None:
    it = world(policy_with_key())
    it = replace(it, ports=replace(it.ports, vault=BrokenVault(error)))
    it.ledger.add(row(1), replace(row(2), header_from="signed.test"), row(3))
    await drained(it)
    assert sorted(it.ledger.kinds()) == ["deferred", "delivered", "delivered"]
    [event] = [event for event in it.ledger.events if event.kind == "deferred"]
    assert "signed.test" in event.reply
    assert it.ledger.rows[2].state is RowState.WAITING
    assert it.shaper.cooled == []


# ── sessions ──────────────────────────────────────────────────────────────────────────────────


class FaultyConnection(ScriptedConnection):
    """A session with a fault of our own: it breaks in a way nobody foresaw."""

    def begin(
        self, message: WireMessage, *, before_dot: Callable[[Sequence[int]], bool]
    ) -> OneTransaction:
        if self._receiver.script:
            if self._receiver.script.pop(0).code == 354:  # type: ignore[union-attr]
                before_dot([0])
            raise ValueError("a fault of ours")
        return super().begin(message, before_dot=before_dot)


class FaultyReceiver(ScriptedReceiver):
    async def connect(self, endpoint: Endpoint) -> ScriptedConnection:
        self.open += 1
        return FaultyConnection(self, endpoint)


@pytest.mark.parametrize(("script", "kind"), [(250, "deferred"), (354, "unknown")])
async def test_a_session_that_breaks_on_our_side_leaves_no_row_without_an_outcome(
    script: int, kind: str
) -> None:
    it = world()
    receiver = FaultyReceiver(script=[SmtpReply.of(script, ("x",))])
    it = replace(it, receiver=receiver, ports=replace(it.ports, connector=receiver))
    it.ledger.add(row(1), row(2), row(3))
    await drained(it)
    assert sorted(it.ledger.kinds()) == sorted(["delivered", "delivered", kind])
    assert receiver.open == 0
    assert it.shaper.held == 0


class SmallReceiver(ScriptedReceiver):
    """Takes one session at a time and refuses the others at the greeting."""

    async def connect(self, endpoint: Endpoint) -> ScriptedConnection:
        if self.open:
            self.endpoints.append(endpoint)
            await asyncio.sleep(0)
            reply = SmtpReply.of(421, ("4.7.0 too many connections",))
            raise ConnectFailed(reply, scope=Scope.HOST, stage="banner")
        return await super().connect(endpoint)


class SlowConnection(ScriptedConnection):
    def _finish(self, *told: Any) -> None:
        asyncio.get_running_loop().call_later(0.02, super()._finish, *told)


class SmallSlowReceiver(SmallReceiver):
    async def connect(self, endpoint: Endpoint) -> ScriptedConnection:
        await super().connect(endpoint)
        return SlowConnection(self, endpoint)


async def test_a_receiver_that_takes_few_sessions_is_not_stormed_with_more() -> None:
    it = world()
    receiver = SmallSlowReceiver()
    it = replace(it, receiver=receiver, ports=replace(it.ports, connector=receiver))
    it.ledger.add(*(row(n) for n in range(1, 41)))
    await drained(it)
    assert it.ledger.kinds() == ["delivered"] * 40
    assert it.shaper.cooled == []
    assert len(receiver.endpoints) < 20


async def test_a_domain_whose_dns_fails_does_not_hold_up_the_others_of_its_site() -> None:
    it = world()
    it.resolver.mxs["silent.test"] = MxAnswer(DnsStatus.TEMPORARY, detail="SERVFAIL")
    it.ledger.add(row(1, recipient="a@silent.test"), *(row(n) for n in range(2, 6)))
    await drained(it)
    assert sorted(it.ledger.kinds()) == ["deferred"] + ["delivered"] * 4
    assert it.ledger.reasons[1] is WaitReason.DNS
    assert it.shaper.cooled == []


# ── the lease ─────────────────────────────────────────────────────────────────────────────────


async def test_rows_of_a_lease_that_was_taken_away_are_not_sent_under_the_next_one() -> None:
    it = world(policy(strategy=Strategy(1, "slow", 1, 1, 1, 1.0)))
    it.shaper.grants = [Grant(1, 0.1), Grant(0, 60.0)]
    it.ledger.add(row(1))
    async with running(it) as (dispatcher, settler):
        ringing = asyncio.create_task(dispatcher.ring(BELL))
        await until(lambda: it.ledger.rows[1].state is RowState.LEASED)
        # Another process took the row back, and sends it.
        it.ledger.lease_is_good = False
        await it.ports.lease.renew()
        assert it.ports.lease.holds()
        await ringing
        await settler.flush()
    assert it.receiver.delivered == []
    assert it.ledger.kinds() == []


# ── bells and allowance ───────────────────────────────────────────────────────────────────────


async def test_all_bells_a_drain_answered_are_uncounted_when_it_ends() -> None:
    it = world()
    key = Path(1, SITE), MailClass.MAIN
    it.shaper.bells[key] = 3
    it.ledger.add(row(1))
    async with running(it) as (dispatcher, settler):
        await asyncio.gather(*(dispatcher.ring(BELL) for _ in range(3)))
        await settler.flush()
        assert it.shaper.bells[key] == 0


async def test_allowance_whose_time_has_passed_is_no_licence_for_a_burst() -> None:
    it = world(policy(strategy=Strategy(1, "paced", 1, 10, 10, 1.0)), limits=QUICK)
    it.shaper.grants = [Grant(5, 0.0, 0.01, "t")]
    it.ledger.add(row(1))
    async with running(it) as (dispatcher, settler):
        ringing = asyncio.create_task(dispatcher.ring(BELL))
        await until(lambda: len(it.receiver.delivered) == 1)
        assert it.shaper.granted <= 5
        await ringing
        await settler.flush()
    assert it.shaper.asked == [1]


async def test_a_round_claims_no_more_than_the_process_may_hold_whatever_the_paths() -> None:
    it = world(limits=replace(QUICK, rows=20, linger_s=1.0))
    sites = [f"mx.s{n}.test" for n in range(40)]
    for number, site in enumerate(sites, start=1):
        each = row(number, recipient=f"x@s{number - 1}.test")
        it.ledger.add(replace(each, site=site, lane_id=number * 10 + 1))
    bell = DrainBell(NODE, MailClass.MAIN, tuple(Path(1, site) for site in sites))
    await drained(it, bell)
    assert it.ledger.kinds() == ["delivered"] * 40
    assert max(sum(r.budget for r in requests) for requests in it.ledger.claims) <= 20


async def test_a_retry_pinned_to_another_source_of_the_node_is_sent_from_it_without_a_bell() -> (
    None
):
    it = world(policy(sources=2))
    it.ledger.add(replace(row(1), pinned_source_id=2), row(2))
    async with running(it) as (dispatcher, settler):
        ringing = asyncio.create_task(dispatcher.ring(BELL))
        await until(lambda: 1 in it.ledger.due_in_s)
        assert it.ledger.due_in_s.pop(1) < 1
        await until(lambda: not it.ledger.rows)
        await ringing
        await settler.flush()
    assert {e.source_address for e in it.receiver.endpoints} == {"127.0.100.1", "127.0.100.2"}


async def test_a_retry_pinned_to_a_source_that_rests_is_not_claimed_over_and_over() -> None:
    it = world(policy(sources=2))
    it.shaper.cooled = [(Path(2, SITE), 60.0, "refused")]
    it.ledger.add(replace(row(1), pinned_source_id=2))
    await drained(it)
    assert it.ledger.rows[1].claim_no == 1
    assert it.ledger.due_in_s[1] >= 5
    assert it.receiver.endpoints == []


async def test_paths_that_wait_for_a_connection_do_not_wait_for_idle_ones() -> None:
    it = world(limits=replace(QUICK, connections=2, linger_s=60.0, idle_s=60.0))
    sites = [f"mx.s{n}.test" for n in range(6)]
    for number, site in enumerate(sites, start=1):
        each = row(number, recipient=f"x@s{number - 1}.test")
        it.ledger.add(replace(each, site=site, lane_id=number * 10 + 1))
    bell = DrainBell(NODE, MailClass.MAIN, tuple(Path(1, site) for site in sites))
    async with running(it) as (dispatcher, _):
        ringing = asyncio.create_task(dispatcher.ring(bell))
        await until(lambda: len(it.receiver.delivered) == 6)
        ringing.cancel()
    assert it.receiver.most_open == 2
