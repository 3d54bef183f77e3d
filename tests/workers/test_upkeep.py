"""Chores over a real ledger: what upkeep takes and cannot settle is not lost, nor sent again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

import pytest

from mailcore.envelope import QueuedRow
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
TAKEN = SmtpReply.of(250, ("2.0.0 taken",))
REFUSED = SmtpReply.of(550, ("5.1.1 nobody here",))
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

    def names(self) -> list[str]:
        return sorted(set(self.journals) - set(self.discarded))

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


async def test_a_node_that_was_away_settles_what_others_took_back_and_undoes_nobodys_work(
    house: House,
) -> None:
    names = ("delivered", "deferred", "dot", "held", "tried", "bounced", "arrived")
    accept(house.acceptor, *(message(f"{name}@one.test") for name in names))
    away = await house.ledger.register(node="away", process="d", journal="left")
    rows = {row.recipient.local_part: row for row in await claim_all(house.ledger, away)}
    # Another node's upkeep: the node was silent for a quarter of an hour.
    house.chores.reclaim(away)
    house.chores.bury(away)
    other = await house.ledger.register(node="there", process="d", journal="lives")
    since = ("held", "tried", "bounced", "arrived")
    query("UPDATE ledger_row SET due_at = now() + interval '1 hour'")
    for name in since:
        query("UPDATE ledger_row SET due_at = now() WHERE id = %s", rows[name].id)
    query("UPDATE ledger_lane SET next_due_at = now()")
    again = {row.recipient.local_part: row for row in await claim_all(house.ledger, other)}
    assert set(again) == set(since)
    await house.ledger.settle(waits([again["tried"]], delay_s=60))
    house.shelf.journals["left"] = Found(
        [
            outcome(rows["delivered"], Verdict.DELIVERED, TAKEN),
            outcome(rows["deferred"], Verdict.DEFERRED, BUSY),
            outcome(rows["bounced"], Verdict.BOUNCED, REFUSED),
            outcome(rows["arrived"], Verdict.DELIVERED, TAKEN),
        ],
        [(rows[name].id, rows[name].claim_no) for name in ("dot", "held", "tried")],
    )
    await reap(house.ports)
    assert query(
        "SELECT split_part(recipient, '@', 1), state, reason FROM ledger_row ORDER BY id"
    ) == [
        ("deferred", RowState.WAITING.value, "reclaimed"),
        ("dot", RowState.UNKNOWN.value, "unknown_outcome"),
        ("held", RowState.LEASED.value, "reclaimed"),
        ("tried", RowState.WAITING.value, "retry"),
        ("bounced", RowState.LEASED.value, "reclaimed"),
    ]
    assert sorted(house.kinds()) == ["delivered", "delivered", "unknown"]
    assert house.shelf.discarded == ["left"]
    assert_counts_agree()


async def test_a_journal_from_before_a_restore_ends_no_younger_row_of_the_same_number(
    house: House,
) -> None:
    accept(house.acceptor, message("old@one.test"), message("new@one.test"))
    number = await house.ledger.register(node=NODE, process="d", journal="d")
    old, new = await claim_all(house.ledger, number)
    house.chores.reclaim(number)
    house.chores.bury(number)
    hour_ms = 3_600_000
    accepted_ms = int(old.accepted_at.timestamp() * 1000)
    house.shelf.journals["left"] = Found(
        [
            replace(outcome(old, Verdict.DELIVERED, TAKEN), occurred_ms=accepted_ms + 5),
            replace(outcome(new, Verdict.DELIVERED, TAKEN), occurred_ms=accepted_ms - hour_ms),
        ]
    )
    await reap(house.ports)
    assert query("SELECT recipient FROM ledger_row") == [("new@one.test",)]
    assert house.kinds() == ["delivered"]


def outcome(row: QueuedRow, verdict: Verdict, reply: SmtpReply) -> Outcome:
    """What came of a claim of a row."""
    return Outcome(row.id, row.claim_no, verdict, Scope.RECIPIENT, reply, "dot")


async def reaped(house: House) -> None:
    """Reap once it is long enough since database and processes were heard of."""
    query(
        "UPDATE ledger_incarnation SET heartbeat_at = now() - interval '1 hour' "
        "WHERE journal <> 'upkeep'"
    )
    while query("SELECT pg_postmaster_start_time() > now() - interval '1 s'")[0][0]:
        await asyncio.sleep(0.05)
    await reap(house.ports)
