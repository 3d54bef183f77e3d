"""The SMTP client gives each recipient the refusal that was meant for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from mailcore.outcome import Scope
from mailcore.ports import (
    Disconnected,
)
from tests.support.smtp_peer import PIPELINING, PLAIN, Peer, obedient
from tests.support.smtp_session import (
    BODY,
    codes,
    message,
    session,
    transact,
    yes,
)


@pytest.mark.parametrize("extensions", [PIPELINING, PLAIN])
async def test_a_refused_mail_decides_over_all_and_the_session_goes_on(
    extensions: tuple[str, ...],
) -> None:
    answers = {"MAIL": ["451 4.7.1 later", "550 5.7.1 not you"]}
    async with session(obedient(answers, extensions)) as (connection, heard):
        wire = message("a@peer.test", "b@peer.test")
        assert await transact(connection, wire) == [(451, "mail", Scope.MESSAGE)] * 2
        assert await transact(connection, wire) == [(550, "mail", Scope.HOST)] * 2
        assert await transact(connection, wire) == [(250, "dot", Scope.MESSAGE)] * 2
    assert len(heard.contents) == 1


@pytest.mark.parametrize("extensions", [PIPELINING, PLAIN])
async def test_a_transaction_without_a_taker_is_reset_before_the_next(
    extensions: tuple[str, ...],
) -> None:
    answers = {"RCPT": ["550 5.1.1 nobody", "552 5.2.2 too many"]}
    async with session(obedient(answers, extensions)) as (connection, heard):
        wire = message("a@peer.test", "b@peer.test")
        replies = await connection.begin(wire, before_dot=yes).replies
        assert codes(replies) == [(550, "rcpt", Scope.RECIPIENT), (452, "rcpt", Scope.RECIPIENT)]
        assert str(replies[1].reply) == "452 4.2.2 too many"
        assert await transact(connection, wire) == [(250, "dot", Scope.MESSAGE)] * 2
    assert heard.lines.count("RSET") == 1


async def test_content_invited_for_nobody_is_a_lone_dot_whose_answer_counts_for_nobody() -> None:
    answers = {"RCPT": ["550 5.1.1 nobody"], "DATA": ["354 go all the same"], "DOT": ["250 took"]}
    async with session(obedient(answers)) as (connection, heard):
        assert await transact(connection, message()) == [(550, "rcpt", Scope.RECIPIENT)]
        assert await transact(connection, message()) == [(250, "dot", Scope.MESSAGE)]
    assert heard.contents == [b"", BODY]


async def test_a_refused_data_decides_over_those_who_were_accepted() -> None:
    answers = {"RCPT": ["250 ok", "550 5.1.1 nobody"], "DATA": ["451 4.3.0 no room"]}
    async with session(obedient(answers)) as (connection, _):
        assert await transact(connection, message("a@peer.test", "b@peer.test")) == [
            (451, "data", Scope.MESSAGE),
            (550, "rcpt", Scope.RECIPIENT),
        ]
        assert await transact(connection, message()) == [(250, "dot", Scope.MESSAGE)]


@pytest.mark.parametrize("extensions", [PIPELINING, PLAIN])
async def test_421_at_rcpt_defers_even_the_recipient_accepted_before_it(
    extensions: tuple[str, ...],
) -> None:
    answers = {"RCPT": ["550 5.1.1 nobody", "250 2.1.5 ok", "421 4.7.0 closing"]}
    async with session(obedient(answers, extensions)) as (connection, heard):
        wire = message("a@peer.test", "b@peer.test", "c@peer.test")
        assert await transact(connection, wire) == [
            (550, "rcpt", Scope.RECIPIENT),
            (421, "rcpt", Scope.SESSION),
            (421, "rcpt", Scope.SESSION),
        ]
        assert not connection.is_usable
    assert heard.contents == []


async def test_421_to_the_dot_defers_its_message_and_loses_the_one_behind_it() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.hear_group()
        peer.say("250 ok", "250 ok", "354 go")
        await peer.take_content()
        await peer.hear_group()
        peer.say("421 4.3.2 going down")

    async with session(script) as (connection, _):
        first = connection.begin(message(), before_dot=yes)
        await first.content_sent
        second = connection.begin(message(), before_dot=yes)
        assert codes(await first.replies) == [(421, "dot", Scope.SESSION)]
        with pytest.raises(Disconnected) as caught:
            await second.replies
        assert not caught.value.after_dot
        await second.content_sent
        assert not connection.is_usable


async def test_421_between_transactions_ends_the_session() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await asyncio.sleep(0.02)
        peer.say("421 4.4.2 idle too long")
        await peer.stall()

    async with session(script) as (connection, _):
        while connection.is_usable:
            await asyncio.sleep(0.005)
        late = connection.begin(message(), before_dot=yes)
        with pytest.raises(Disconnected):
            await late.replies


async def test_a_refusal_while_content_is_under_way_decides_and_no_dot_follows() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.hear_group()
        peer.say("250 ok", "250 ok", "354 go")
        await peer.reader.readexactly(100_000)
        peer.say("552 5.3.4 too big after all")
        await peer.stall()

    content = (b"x" * 76 + b"\r\n") * 200_000
    asked: list[int] = []

    def ask(_: Sequence[int]) -> bool:
        asked.append(1)
        return True

    async with session(script) as (connection, _):
        transaction = connection.begin(message(content=content), before_dot=ask)
        assert codes(await transaction.replies) == [(552, "data", Scope.MESSAGE)]
        assert not connection.is_usable
    assert not asked
