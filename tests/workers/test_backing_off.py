"""A path whose server wants none of our mail rests, and nobody waits for a session to be opened."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from mailcore.bells import DrainBell, Path
from mailcore.outcome import MailClass, RowState, Scope
from mailcore.ports import (
    AddressAnswer,
    ConnectFailed,
    DnsStatus,
    Endpoint,
    MxAnswer,
    MxHost,
    RecipientReply,
)
from mailcore.reply import SmtpReply
from tests.support.builders import NODE, row
from tests.support.fakes import ScriptedConnection, World, world
from tests.workers.test_drain import BELL, drained, running, until

LIMITED = RecipientReply(SmtpReply.of(421, ("4.7.0 rate limited",)), "mail", Scope.SESSION)
BLOCKED = RecipientReply(SmtpReply.of(550, ("5.7.1 your IP is blocked",)), "mail", Scope.HOST)
NO_SENDER = RecipientReply(SmtpReply.of(550, ("5.1.8 no such sender",)), "mail", Scope.HOST)
BUSY = SmtpReply.of(421, ("4.3.2 busy",))


def meeting(*words: RecipientReply | SmtpReply, rows: int = 50) -> World:
    it = world()
    it.receiver.script = list(words)
    it.ledger.add(*(row(n) for n in range(1, rows + 1)))
    return it


@pytest.mark.parametrize("word", [LIMITED, BLOCKED, replace(LIMITED, stage="rcpt")])
async def test_a_server_that_takes_nothing_is_not_asked_by_every_row(word: RecipientReply) -> None:
    it = meeting(*[word] * 60)
    await drained(it)
    assert it.shaper.cooled
    waiting = [each for each in it.ledger.rows.values() if each.attempt == 0]
    assert len(waiting) > 25
    assert all(each.state is RowState.WAITING for each in waiting)


async def test_a_session_that_is_ended_after_some_mail_costs_no_rest() -> None:
    it = meeting(SmtpReply.of(250, ("ok",)), LIMITED, rows=2)
    await drained(it)
    assert sorted(it.ledger.kinds()) == ["deferred", "delivered"]
    assert it.shaper.cooled == []


async def test_a_sender_whose_address_is_refused_lets_nobody_else_wait() -> None:
    it = meeting(*[NO_SENDER] * 3, rows=3)
    await drained(it)
    assert it.shaper.cooled == []


async def test_the_rest_grows_until_mail_is_taken() -> None:
    it = meeting(*[BLOCKED] * 100)
    async with running(it) as (dispatcher, settler):
        for script in ([BLOCKED] * 100, [BLOCKED] * 100, [], [BLOCKED] * 100):
            it.receiver.script = list(script)
            it.ledger.add(*(row(n) for n in range(1, 51)))
            await dispatcher.ring(BELL)
            await settler.flush()
    assert [seconds for _, seconds, _ in it.shaper.cooled] == [1.0, 2.0, 1.0]


async def test_one_host_with_many_addresses_does_not_hide_the_next() -> None:
    it = world()
    hosts = ("mx.peer.test", "mx2.peer.test")
    it.resolver.mxs["peer.test"] = MxAnswer(
        DnsStatus.OK, (MxHost(10, hosts[0]), MxHost(20, hosts[1]))
    )
    many = tuple(f"127.0.0.{n}" for n in range(1, 9))
    it.resolver.hosts[hosts[0]] = AddressAnswer(DnsStatus.OK, many, canonical=hosts[0])
    it.receiver.refuse = [ConnectFailed(BUSY, scope=Scope.HOST, stage="banner")] * 4
    site = ",".join(hosts)
    it.ledger.add(replace(row(1), site=site))
    await drained(it, DrainBell(NODE, MailClass.MAIN, (Path(1, site),)))
    assert [endpoint.host for endpoint in it.receiver.endpoints] == [hosts[0]] * 4 + [hosts[1]]
    assert it.ledger.kinds() == ["delivered"]


async def test_a_stop_does_not_wait_for_a_session_that_is_being_opened() -> None:
    it = world()
    asked = []

    async def connect(endpoint: Endpoint) -> ScriptedConnection:
        asked.append(endpoint)
        await asyncio.Event().wait()
        raise AssertionError("nobody answers")

    it.receiver.connect = connect  # type: ignore[method-assign]
    it.ledger.add(row(1))
    async with running(it) as (dispatcher, _):
        ringing = asyncio.create_task(dispatcher.ring(BELL))
        await until(lambda: bool(asked))
        await dispatcher.stop()
        await ringing
    assert it.ledger.kinds() == []
    assert it.ledger.rows[1].state is RowState.WAITING
