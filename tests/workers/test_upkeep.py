"""Chores over a real ledger: what upkeep takes and cannot settle is not lost, nor sent again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

import pytest

from mailcore.events import decode_lines
from mailcore.outcome import Outcome, RowState, Scope, Verdict, WaitReason
from mailcore.policy.model import DefaultRule
from mailcore.policy.words import UnknownAction
from mailcore.ports import Settlement, StoreUnavailable
from mailcore.reply import SmtpReply
from mailio.ledger.accept import Acceptor
from mailio.ledger.delivery import PgLedger
from mailio.ledger.upkeep import LedgerUpkeep
from tests.io.ledger.world import (
    accept,
    assert_counts_agree,
    claim_all,
    empty,
    message,
    query,
    waits,
)
from tests.support.builders import NODE, policy
from tests.support.fakes import world
from workers.engines.lease import Lease
from workers.engines.settle import Rules
from workers.engines.upkeep import UpkeepPorts, expire, reap, unpark

BUSY = SmtpReply.of(451, ("4.7.1 later",))
STATES = "SELECT state, reason, attempt FROM ledger_row ORDER BY id"


class LostAnswers(PgLedger):
    """A ledger whose next settles fail: before they were heard, or after they were committed."""

    lost = 0

    async def settle(self, settlement: Settlement) -> int:
        if self.lost:
            self.lost -= 1
            raise StoreUnavailable("postgresql", "restarting")
        return await super().settle(settlement)


@dataclass
class Found:
    """What a journal tells."""

    outcomes: Sequence[Outcome] = ()
    dots: Sequence[tuple[int, int]] = ()


@dataclass
class Shelf:
    """Journals of the dead by name; one that is None cannot be read."""

    journals: dict[str, Found | None] = field(default_factory=dict)
    discarded: list[str] = field(default_factory=list)

    def is_alive(self, name: str) -> bool:
        return name not in self.journals

    def recover(self, name: str) -> Found | None:
        if name in self.journals and self.journals[name] is None:
            raise StoreUnavailable("journal", "permission denied")
        return self.journals.get(name)

    def discard(self, name: str) -> None:
        self.discarded.append(name)


@dataclass
class House:
    """A node's upkeep at work on a real database."""

    acceptor: Acceptor
    ledger: LostAnswers
    chores: LedgerUpkeep
    shelf: Shelf
    ports: UpkeepPorts

    def kinds(self) -> list[str]:
        bodies = query("SELECT body FROM ledger_outbox WHERE batch_id IS NULL ORDER BY id")
        told = [bytes(body) for (body,) in bodies if bytes(body) != b"events"]
        return [event.kind for body in told for event in decode_lines(body)]


@pytest.fixture
async def house() -> AsyncIterator[House]:
    dsn = empty()
    ledger, chores, acceptor, shelf = LostAnswers(dsn), LedgerUpkeep(dsn), Acceptor(dsn), Shelf()
    hold = DefaultRule(1, "all", 0, 0, 1, unknown_action=UnknownAction.GIVE_UP)
    it = world(replace(policy(), default_rules={1: hold}))
    lease = Lease(ledger, it.ports.clock, node=NODE, process="upkeep", journal="upkeep")
    deliver = replace(it.ports, ledger=ledger, lease=lease)
    await lease.open()
    yield House(
        acceptor,
        ledger,
        chores,
        shelf,
        UpkeepPorts(deliver, chores, shelf, Rules(it.policy)),
    )
    for side in (acceptor, chores, ledger):
        side.close()


async def test_what_expired_while_the_settle_failed_expires_with_the_next_turn(
    house: House,
) -> None:
    accept(house.acceptor, message(lifetime_s=0))
    house.ledger.lost = 1
    with pytest.raises(StoreUnavailable):
        await expire(house.ports)
    assert query(STATES)[0][0] == RowState.LEASED
    await expire(house.ports)
    assert query(STATES) == []
    assert house.kinds() == ["expired"]
    assert_counts_agree()


async def test_an_unknown_outcome_stays_unknown_when_upkeep_dies_before_it_has_decided(
    house: House,
) -> None:
    accept(house.acceptor, message())
    number = await house.ledger.register(node=NODE, process="d", journal="d")
    [taken] = await claim_all(house.ledger, number)
    await house.ledger.settle(
        waits([taken], state=RowState.UNKNOWN, reason=WaitReason.UNKNOWN_OUTCOME)
    )
    dead = await house.ledger.register(node=NODE, process="u", journal="u")
    assert len(house.chores.unknown_due(incarnation=dead, limit=9)) == 1
    house.chores.reclaim(dead)
    assert query(STATES)[0][:2] == (RowState.UNKNOWN, "unknown_outcome")
    assert_counts_agree()
    await expire(house.ports)  # the rule gives up; it never sends a second copy
    assert query(STATES) == []
    assert house.kinds() == ["bounced"]


async def test_two_turns_at_once_are_one(house: House) -> None:
    accept(house.acceptor, *(message(f"{n}@one.test", lifetime_s=0) for n in range(5)))
    await asyncio.gather(expire(house.ports), expire(house.ports), expire(house.ports))
    assert house.kinds() == ["expired"] * 5


async def test_a_deferral_settled_before_its_journal_forgot_it_counts_one_attempt(
    house: House,
) -> None:
    accept(house.acceptor, message())
    number = await house.ledger.register(node=NODE, process="d", journal="d")
    [taken] = await claim_all(house.ledger, number)
    # By the rule of three retries, one more attempt counted would end the message.
    query("UPDATE ledger_row SET attempt = 2")
    await house.ledger.settle(waits([taken], delay_s=60))
    told = Outcome(taken.id, taken.claim_no, Verdict.DEFERRED, Scope.RECIPIENT, BUSY, "rcpt")
    house.shelf.journals["d"] = Found([told])
    await reaped(house)
    assert query(STATES) == [(RowState.WAITING, "retry", 3)]
    assert house.kinds() == []
    assert house.shelf.discarded == ["d"]


async def test_a_journal_that_cannot_be_read_keeps_no_other_of_the_dead_from_its_rows(
    house: House,
) -> None:
    accept(house.acceptor, message("a@one.test"))
    bad = await house.ledger.register(node=NODE, process="bad", journal="bad")
    number = await house.ledger.register(node=NODE, process="d", journal="d")
    await claim_all(house.ledger, number)
    house.shelf.journals = {"bad": None, "d": Found()}
    assert bad < number
    await reaped(house)
    assert query(STATES) == [(RowState.WAITING, "reclaimed", 0)]
    assert house.shelf.discarded == ["d"]


async def test_two_turns_of_unparking_at_once_let_every_row_go_once(house: House) -> None:
    accept(house.acceptor, *(message(f"{n}@one.test", site="") for n in range(3)))
    query("TRUNCATE queue_hold")
    query("UPDATE ledger_row SET reason = 'held', due_at = expires_at")
    done = await asyncio.gather(unpark(house.ports), unpark(house.ports))
    assert sorted(done) == [0, 3]
    assert [reason for _, reason, _ in query(STATES)] == ["new"] * 3
    assert_counts_agree()


async def reaped(house: House) -> None:
    """Reap once it is long enough since database and processes were heard of."""
    query(
        "UPDATE ledger_incarnation SET heartbeat_at = now() - interval '1 hour' "
        "WHERE journal <> 'upkeep'"
    )
    while query("SELECT pg_postmaster_start_time() > now() - interval '1 s'")[0][0]:
        await asyncio.sleep(0.05)
    await reap(house.ports)
