"""Draining: what is due is sent once, within its limits, and everything else goes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from mailcore.bells import DrainBell, Path
from mailcore.events import recipient_hash
from mailcore.outcome import MailClass, RowState, Scope, TlsNeed, WaitReason
from mailcore.policy.model import PolicySnapshot, Strategy
from mailcore.policy.words import DomainType, HeloMode
from mailcore.ports import (
    ConnectFailed,
    Disconnected,
    DnsStatus,
    Grant,
    MxAnswer,
    MxHost,
    RecipientReply,
    StoreUnavailable,
)
from mailcore.reply import SmtpReply
from tests.support.builders import NODE, SITE, policy, row
from tests.support.fakes import World, world
from workers.engines.context import Limits
from workers.engines.drain import Dispatcher
from workers.engines.settle import Settler

LOST = SmtpReply.local(421, "4.4.2", "connection lost")
BELL = DrainBell(NODE, MailClass.MAIN, (Path(1, SITE),))


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


async def test_every_due_row_is_delivered_once_and_told_once() -> None:
    it = world()
    it.ledger.add(*(row(n) for n in range(1, 201)))
    await drained(it)
    assert it.ledger.rows == {}
    assert it.ledger.kinds() == ["delivered"] * 200
    assert len({m.forward_paths for m in it.receiver.delivered}) == 200
    assert it.journal.live == set()


async def test_a_dot_is_journaled_before_its_outcome() -> None:
    it = world()
    it.ledger.add(row(1))
    await drained(it)
    assert it.journal.told == [("dot", 1), ("outcome", 1)]


async def test_a_refused_recipient_bounces_and_the_next_message_uses_the_same_session() -> None:
    it = world()
    it.ledger.add(row(1), row(2))
    refusal = SmtpReply.of(550, ("5.1.1 no such user",))
    it.receiver.script = [RecipientReply(refusal, "rcpt", Scope.RECIPIENT)]
    await drained(it)
    assert sorted(it.ledger.kinds()) == ["bounced", "delivered"]
    assert len(it.receiver.endpoints) == 1


async def test_a_transient_refusal_defers_by_the_retry_rule() -> None:
    it = world()
    it.ledger.add(row(1))
    busy = SmtpReply.of(451, ("4.7.1 greylisted",))
    it.receiver.script = [RecipientReply(busy, "rcpt", Scope.RECIPIENT)]
    await drained(it)
    assert it.ledger.rows[1].state is RowState.WAITING
    assert it.ledger.rows[1].attempt == 1
    assert it.ledger.due_in_s[1] == 60.0
    assert it.ledger.kinds() == ["deferred"]


async def test_a_reply_lost_after_the_dot_is_unknown_and_not_sent_again() -> None:
    it = world()
    it.ledger.add(row(1))
    it.receiver.script = [Disconnected(LOST, scope=Scope.SESSION, stage="dot", after_dot=True)]
    await drained(it)
    assert it.ledger.rows[1].state is RowState.UNKNOWN
    assert it.ledger.kinds() == ["unknown"]
    assert len(it.receiver.endpoints) == 1


async def test_a_session_that_dies_under_a_later_message_is_replaced_at_once() -> None:
    it = world()
    it.ledger.add(row(1), row(2))
    gone = Disconnected(LOST, scope=Scope.SESSION, stage="mail")
    it.receiver.script = [SmtpReply.of(250, ("ok",)), gone]
    await drained(it)
    assert it.ledger.rows == {}
    assert it.ledger.kinds() == ["delivered", "delivered"]
    assert len(it.receiver.endpoints) == 2


async def test_a_path_that_cannot_connect_rests_and_blames_one_row_only() -> None:
    it = world()
    it.ledger.add(*(row(n) for n in range(1, 11)))
    refused = ConnectFailed(
        SmtpReply.local(451, "4.4.1", "refused"), scope=Scope.HOST, stage="connect"
    )
    it.receiver.refuse = [refused] * 50
    await drained(it)
    attempts = [it.ledger.rows[n].attempt for n in range(1, 11)]
    assert sum(attempts) == it.ledger.kinds().count("deferred") == 1
    returned = [n for n, reason in it.ledger.reasons.items() if reason is WaitReason.RETURNED]
    assert len(returned) == 9
    assert [path for path, _, _ in it.shaper.cooled] == [Path(1, SITE)]


async def test_a_path_that_fails_again_rests_longer_until_it_works() -> None:
    it = world()
    it.ledger.add(row(1), row(2), row(3))
    refused = ConnectFailed(
        SmtpReply.local(451, "4.4.1", "refused"), scope=Scope.HOST, stage="connect"
    )
    it.receiver.refuse = [refused] * 2
    async with running(it) as (dispatcher, settler):
        for _ in range(2):
            await dispatcher.ring(BELL)
            await settler.flush()
        assert [seconds for _, seconds, _ in it.shaper.cooled] == [1.0, 2.0]
        await dispatcher.ring(BELL)
        await settler.flush()
        it.ledger.add(row(4))
        it.receiver.refuse = [refused]
        await dispatcher.ring(BELL)
        await settler.flush()
        assert [seconds for _, seconds, _ in it.shaper.cooled] == [1.0, 2.0, 1.0]


async def test_rows_whose_lifetime_is_over_expire_unsent() -> None:
    it = world()
    it.ledger.add(row(1, expires_in_s=-1), row(2))
    await drained(it)
    assert sorted(it.ledger.kinds()) == ["delivered", "expired"]
    assert len(it.receiver.delivered) == 1


async def test_a_recipient_stop_listed_since_is_stopped_unsent() -> None:
    it = world()
    it.ledger.add(row(1), row(2))
    it.ledger.stop_listed = {(1, recipient_hash("r1@peer.test"))}
    await drained(it)
    assert sorted(it.ledger.kinds()) == ["delivered", "stopped"]
    assert [m.forward_paths for m in it.receiver.delivered] == [("r2@peer.test",)]


async def test_a_domain_that_moved_goes_to_its_new_site() -> None:
    it = world()
    it.ledger.add(row(1))
    it.resolver.mxs["peer.test"] = MxAnswer(DnsStatus.OK, (MxHost(5, "mx.elsewhere.test"),))
    await drained(it)
    assert it.ledger.strays == [(1, "mx.elsewhere.test")]
    assert it.receiver.endpoints == []


async def test_a_row_without_content_is_deferred_with_that_reason() -> None:
    it = world()
    it.ledger.add(row(1), row(2))
    it.spool.missing = {1}
    await drained(it)
    assert sorted(it.ledger.kinds()) == ["deferred", "delivered"]
    told = next(event for event in it.ledger.events if event.kind == "deferred")
    assert "missing in the spool" in told.reply


async def test_connections_stay_within_the_strategy() -> None:
    it = world(policy(strategy=Strategy(1, "two", 2, 0, 0, 0.0)))
    it.ledger.add(*(row(n) for n in range(1, 301)))
    await drained(it)
    assert len(it.receiver.delivered) == 300
    assert it.receiver.most_open <= 2
    assert it.shaper.held == 0


async def test_a_session_carries_no_more_messages_than_the_strategy_says() -> None:
    it = world(policy(strategy=Strategy(1, "ten", 1, 10, 0, 0.0)))
    it.ledger.add(*(row(n) for n in range(1, 51)))
    await drained(it)
    assert len(it.receiver.delivered) == 50
    assert len(it.receiver.endpoints) >= 5


async def test_no_more_is_claimed_than_is_granted() -> None:
    it = world(policy(strategy=Strategy(1, "60:60", 1, 60, 1, 60.0)))
    it.shaper.grants = [Grant(3, 0.0, 0.001)]
    it.ledger.add(*(row(n) for n in range(1, 11)))
    await drained(it)
    assert len(it.receiver.delivered) == 3
    assert all(each.state is RowState.WAITING for each in it.ledger.rows.values())
    assert len(it.ledger.rows) == 7


async def test_a_lease_that_ran_out_withholds_the_dot() -> None:
    it = world()
    it.ledger.add(row(1))
    async with running(it) as (dispatcher, settler):
        it.ports.lease._valid_until = it.ports.clock.monotonic() + 2.2
        ringing = asyncio.create_task(dispatcher.ring(BELL))
        await until(lambda: bool(it.ledger.claims))
        it.ports.lease._valid_until = 0.0
        await until(lambda: it.ledger.reasons.get(1) is WaitReason.RETURNED or not it.ledger.rows)
        await settler.flush()
        ringing.cancel()
    # Either the dot was out before the lease ended, or nothing was delivered.
    assert len(it.receiver.delivered) == it.ledger.kinds().count("delivered")


async def test_with_the_ledger_away_outcomes_stay_journaled_until_it_is_back() -> None:
    it = world()
    it.ledger.add(row(1))

    def leave() -> None:
        it.ledger.is_away = True

    it.journal.when_told = leave
    async with running(it) as (dispatcher, settler):
        ringing = asyncio.create_task(dispatcher.ring(BELL))
        await until(lambda: settler.is_stuck)
        assert it.journal.live == {(1, 1)}
        it.ledger.is_away = False
        await settler.flush()
        ringing.cancel()
    assert it.ledger.kinds() == ["delivered"]
    assert it.journal.live == set()


async def test_a_strategy_that_drops_destroys_instead_of_sending() -> None:
    it = world(policy(strategy=Strategy(1, "hole", 0, 0, 0, 0.0, drop=True)))
    it.ledger.add(row(1), row(2))
    await drained(it)
    assert it.ledger.rows == {}
    assert it.ledger.kinds() == ["purged", "purged"]
    assert it.receiver.endpoints == []
    assert "hole" in it.ledger.events[0].reply


async def test_mail_that_needs_tls_never_travels_in_clear() -> None:
    it = world()
    it.ledger.add(row(1), replace(row(2), tls_need=TlsNeed.REQUIRED))
    await drained(it)
    assert [m.forward_paths for m in it.receiver.delivered] == [("r1@peer.test",)]
    assert it.ledger.rows[2].state is RowState.WAITING
    (told,) = [event for event in it.ledger.events if event.kind == "deferred"]
    assert told.enhanced == "4.7.4"
    assert told.tls_result == "starttls-not-supported"


async def test_an_isp_gets_its_header_overrides() -> None:
    snapshot = policy()
    isp = replace(snapshot.isps[1], add_headers=(("X-Peer", "yes"),), delete_headers=("Subject",))
    it = world(replace(snapshot, isps={1: isp}))
    it.ledger.add(row(1))
    await drained(it)
    (message,) = it.receiver.delivered
    assert b"X-Peer: yes\r\n" in message.content
    assert b"Subject:" not in message.content


async def test_a_greeting_by_from_domain_is_the_domain_the_sender_presents() -> None:
    snapshot = policy(strategy=Strategy(1, "u", 0, 0, 0, 0.0, helo=HeloMode.FROM_DOMAIN))
    sender = replace(
        snapshot.senders[1], domain_type=DomainType.FIXED, fixed_domain="out.sender.test"
    )
    it = world(replace(snapshot, senders={1: sender}))
    it.ledger.add(row(1))
    await drained(it)
    assert [endpoint.ehlo_name for endpoint in it.receiver.endpoints] == ["out.sender.test"]


async def test_a_dot_that_cannot_be_journaled_is_not_sent() -> None:
    it = world()
    it.ledger.add(row(1))

    def refuse(row_id: int, claim_no: int) -> None:
        raise StoreUnavailable("journal", "disk full")

    it.journal.dot = refuse  # type: ignore[method-assign]
    async with running(it) as (dispatcher, settler):
        ringing = asyncio.create_task(dispatcher.ring(BELL))
        await until(lambda: it.ledger.reasons.get(1) is WaitReason.RETURNED)
        ringing.cancel()
        await settler.flush()
    assert it.receiver.delivered == []


async def test_accounts_share_a_path_alike() -> None:
    it = world(limits=Limits(rows_per_path=20, linger_s=0.05, idle_s=0.05, dry_gap_s=0.01))
    it.ledger.add(*(row(n, account=1) for n in range(1, 401)))
    it.ledger.add(*(row(n, account=2) for n in range(1001, 1021)))
    await drained(it)
    order = [int(m.forward_paths[0].partition("@")[0][1:]) for m in it.receiver.delivered]
    last_of_second = max(i for i, n in enumerate(order) if n > 1000)
    assert last_of_second < 100


async def test_stopping_gives_back_what_is_not_on_the_wire() -> None:
    it = world(policy(strategy=Strategy(1, "slow", 1, 60, 1, 60.0)))
    it.shaper.grants = [Grant(5, 30.0, 1.0)]
    it.ledger.add(*(row(n) for n in range(1, 6)))
    async with running(it) as (dispatcher, _):
        ringing = asyncio.create_task(dispatcher.ring(BELL))
        await until(lambda: bool(it.ledger.claims))
        await asyncio.sleep(0.05)
        await dispatcher.stop()
        ringing.cancel()
    assert {r.state for r in it.ledger.rows.values()} == {RowState.WAITING}
    assert all(r.attempt == 0 for r in it.ledger.rows.values())


async def test_a_bell_for_a_source_that_is_gone_is_uncounted() -> None:
    it = world()
    gone = DrainBell(NODE, MailClass.MAIN, (Path(99, SITE),))
    it.shaper.bells[Path(99, SITE), MailClass.MAIN] = 1
    await drained(it, gone)
    assert it.shaper.bells[Path(99, SITE), MailClass.MAIN] == 0


async def test_a_new_policy_is_used_without_a_restart() -> None:
    it = world(policy(strategy=Strategy(1, "none", 1, 1, 1, 3600.0)))
    it.ledger.add(*(row(n) for n in range(1, 21)))
    async with running(it) as (dispatcher, settler):
        ringing = asyncio.create_task(dispatcher.ring(BELL))
        await until(lambda: not dispatcher._feeds or bool(it.shaper.cooled))
        assert it.receiver.delivered == []
        fast: PolicySnapshot = replace(policy(), revision=8)
        it.policy.snapshot = fast
        await ringing
        await dispatcher.ring(BELL)
        await settler.flush()
    assert len(it.receiver.delivered) == 20
    assert {event.policy_revision for event in it.ledger.events} == {8}
