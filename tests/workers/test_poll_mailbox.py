"""The poller: what a crash repeats, what waits, what is not believed; bounded at every step."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest

from mailcore.policy.model import Mailbox, PolicySnapshot
from tests.support.builders import NODE, policy
from tests.support.fake_sources import FixedPolicy, RunningClock
from tests.support.reports import RING, bounce, complaint, delivered
from tests.workers.mailboxes import Killed, MemoryInbound, MemoryMailbox, MemoryTraces
from workers.engines.poll_mailbox import Pace, Poller, PollPorts

BOX = Mailbox(1, "bounces", "pop.test", 995, "box", "mailbox:1", poll_interval_s=300.0)
PACE = Pace(batch=10, sitting=30, looked_up=15, most_tries=3)


class OneSecret:
    """Vault with the mailbox's password, or without."""

    is_empty = False

    async def open(self, secret_ref: str) -> bytes:
        if self.is_empty:
            raise LookupError(f"there is no secret {secret_ref}")
        return b"secret"


@dataclass
class World:
    box: MemoryMailbox = field(default_factory=MemoryMailbox)
    inbound: MemoryInbound = field(default_factory=MemoryInbound)
    traces: MemoryTraces = field(default_factory=MemoryTraces)
    vault: OneSecret = field(default_factory=OneSecret)
    mailbox: Mailbox = BOX
    pace: Pace = PACE

    def put(self, count: int, *, known: bool = True) -> None:
        first = len(self.box.messages)
        for number in range(first, first + count):
            event = delivered(number)
            if known:
                self.traces.put(event)
            self.box.messages[f"u{number}"] = bounce(event)

    def poller(self) -> Poller:
        snapshot: PolicySnapshot = replace(policy(), mailboxes={1: self.mailbox})
        return Poller(
            PollPorts(
                policy=FixedPolicy(snapshot),
                vault=self.vault,
                reader=self.box,
                inbound=self.inbound,
                traces=self.traces,
                clock=RunningClock(),
                token_ring=RING,
                node=NODE,
                pace=self.pace,
            )
        )

    def poll(self) -> int:
        return asyncio.run(self.poller().poll())


@pytest.fixture
def world() -> World:
    return World()


def test_a_mailbox_is_emptied_and_each_report_told_once(world: World) -> None:
    world.put(100)
    assert world.poll() == 100
    assert world.box.messages == {}
    assert Counter(e.kind for e in world.inbound.events.values()) == {"late_bounced": 100}
    assert world.inbound.tally == {("bounce", "told"): 100}
    assert world.inbound.ends == [(300.0, 100, "")]
    assert world.inbound.noted == {}


def test_a_sitting_and_a_batch_hold_a_bounded_number(world: World) -> None:
    world.put(100)
    world.poll()
    assert world.box.sessions == 4
    assert world.inbound.largest == 10
    assert max(world.traces.asked) == 10


def test_a_copy_of_a_report_is_counted_as_a_message_and_told_no_more(world: World) -> None:
    world.put(1)
    world.box.messages["copy"] = world.box.messages["u0"]
    assert world.poll() == 2
    assert len(world.inbound.events) == 1
    assert world.inbound.tally == {("bounce", "told"): 2}


def test_bounces_and_complaints_stand_side_by_side(world: World) -> None:
    world.put(1)
    world.box.messages["c"] = complaint(delivered(0))
    world.box.messages["d"] = bounce(delivered(0), action="delayed")
    world.box.messages["junk"] = b"\xff\x00 no mail at all"
    assert world.poll() == 4
    assert {e.kind for e in world.inbound.events.values()} == {"late_bounced", "complained"}
    assert world.inbound.tally == {
        ("bounce", "told"): 1,
        ("complaint", "told"): 1,
        ("delay", "noted"): 1,
        ("other", "noted"): 1,
    }
    assert world.box.messages == {}


@pytest.mark.parametrize(
    "step", ["before record", "after record", "delete", "before commit", "after commit", "forget"]
)
def test_killed_at_any_step_each_report_counts_once(world: World, step: str) -> None:
    world.put(50)
    world.inbound.dies = world.box.dies = step
    with pytest.raises(Killed):
        world.poll()
    world.inbound.dies = world.box.dies = ""
    world.poll()
    assert world.box.messages == {}
    assert len(world.inbound.events) == 50
    assert world.inbound.tally == {("bounce", "told"): 50}


def test_a_message_that_was_committed_is_not_read_again(world: World) -> None:
    world.put(10)
    world.box.dies = "before commit"
    with pytest.raises(Killed):
        world.poll()
    world.box.dies, world.box.fetched = "", []
    assert world.poll() == 0
    assert world.box.fetched == []
    assert world.box.messages == {}


def test_of_what_nothing_is_known_yet_it_waits_in_the_mailbox(world: World) -> None:
    world.put(3, known=False)
    assert world.poll() == 0
    assert len(world.box.messages) == 3
    assert world.inbound.tally == {}
    for number in range(3):
        world.traces.put(delivered(number))
    assert world.poll() == 3
    assert len(world.inbound.events) == 3
    assert world.box.messages == {}


def test_what_waits_is_not_looked_at_before_its_time_and_does_not_hold_up_others(
    world: World,
) -> None:
    world.put(40, known=False)
    world.poll()
    world.inbound.waiting = set(world.inbound.noted)
    world.box.fetched = []
    world.put(5)
    world.poll()
    world.inbound.waiting = set(world.inbound.noted)
    world.poll()
    assert world.box.fetched.count("u44") == 1
    assert len(world.inbound.events) == 5


def test_after_so_many_tries_it_is_given_up_and_counted(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.put(1, known=False)
    assert [world.poll() for _ in range(3)] == [0, 0, 1]
    assert world.inbound.tally == {("bounce", "untraced"): 1}
    assert world.box.messages == {}
    assert [r.message for r in caplog.records if r.levelname == "WARNING"] == [
        "report not believed"
    ]


def test_a_forged_token_is_counted_logged_and_not_believed(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    event = delivered(1)
    world.traces.put(event)
    good = bounce(event)
    at = good.index(b"b-") + 40
    forged = good[at : at + 6]
    world.box.messages["f"] = good.replace(forged, b"zzzzzz")
    world.poll()
    assert world.inbound.events == {}
    assert world.inbound.tally == {("bounce", "forged"): 1}
    (record,) = [r for r in caplog.records if r.message == "report not believed"]
    assert (record.__dict__["uidl"], record.__dict__["fate"]) == ("f", "forged")


def test_messages_stay_where_the_mailbox_keeps_them_and_are_read_once(world: World) -> None:
    world.mailbox = replace(BOX, deletes_after_reading=False)
    world.put(70)
    assert world.poll() == 70
    assert len(world.box.messages) == 70
    world.box.fetched = []
    assert world.poll() == 0
    assert world.box.fetched == []
    assert len(world.inbound.events) == 70


def test_a_server_that_refuses_is_noted_with_its_words_and_asked_again_later(
    world: World,
) -> None:
    world.box.refuses = "pop.test refused the login: -ERR no"
    assert world.poll() == 0
    assert world.inbound.ends == [(300.0, 0, "pop.test refused the login: -ERR no")]


def test_a_password_that_is_gone_is_noted(world: World) -> None:
    world.vault.is_empty = True
    assert world.poll() == 0
    ((_, _, error),) = world.inbound.ends
    assert error == "its password is not to be had: there is no secret mailbox:1"


def test_with_a_store_away_nothing_is_deleted(world: World) -> None:
    world.put(3)
    world.traces.is_away = True
    assert world.poll() == 0
    assert len(world.box.messages) == 3
    assert world.inbound.abandoned == 1
    world.inbound.is_away = True
    assert world.poll() == 0
    world.inbound.is_away = world.traces.is_away = False
    assert world.poll() == 3


def test_a_mailbox_that_is_not_due_is_left_alone(world: World) -> None:
    world.put(1)
    world.inbound.is_due = False
    assert world.poll() == 0
    assert world.box.sessions == 0


def test_stopping_ends_behind_the_batch_and_leaves_the_rest(world: World) -> None:
    world.put(30)
    poller = world.poller()

    def stop_at(uidl: str) -> None:
        if uidl == "u12":
            poller.stop()

    world.box.before_fetch = stop_at
    assert asyncio.run(poller.poll()) == 20
    assert sorted(world.box.messages) == sorted(f"u{n}" for n in range(20, 30))
    assert world.inbound.ends == [(0.0, 20, "")]
    world.box.before_fetch = lambda uidl: None
    assert world.poll() == 10


def test_a_turn_that_takes_too_long_goes_on_with_the_next_bell(world: World) -> None:
    world.put(100)
    world.pace = replace(world.pace, turn_s=0.0)
    assert world.poll() == 30
    assert world.inbound.ends == [(0.0, 30, "")]
    assert len(world.box.messages) == 70


def test_a_message_larger_than_the_limit_is_read_by_its_beginning(world: World) -> None:
    event = delivered(1)
    world.traces.put(event)
    world.box.messages["large"] = bounce(event) + b"x" * 1_000_000
    world.pace = replace(world.pace, message_bytes=4096)
    assert world.poll() == 1
    assert len(world.inbound.events) == 1
