"""What the SMTP client says to a server that takes mail, on real sockets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from mailcore.outcome import Scope
from mailio.smtp import Timeouts
from tests.support.smtp_peer import PIPELINING, PLAIN, Peer, obedient
from tests.support.smtp_session import (
    BODY,
    GROUP,
    codes,
    message,
    session,
    transact,
    yes,
)


async def test_a_pipelining_server_gets_mail_rcpt_and_data_in_one_write() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.hear_group()
        peer.say("250 ok", "250 ok", "250 ok", "354 go")
        await peer.take_content()
        peer.say("250 2.0.0 queued as 1")
        await peer.hear_verb("QUIT")
        peer.say("221 bye")

    async with session(script) as (connection, heard):
        result = await transact(connection, message("a@peer.test", "b@peer.test"))
    assert result == [(250, "dot", Scope.MESSAGE)] * 2
    assert heard.groups == [
        [
            f"MAIL FROM:<from@example.com> SIZE={len(BODY)}",
            "RCPT TO:<a@peer.test>",
            "RCPT TO:<b@peer.test>",
            "DATA",
        ]
    ]
    assert heard.contents == [BODY]


@pytest.mark.parametrize("extensions", [PIPELINING, PLAIN])
async def test_a_chain_of_three_gives_each_message_its_own_replies(
    extensions: tuple[str, ...],
) -> None:
    answers = {
        "RCPT": ["250 ok", "550 5.1.1 nobody", "250 ok", "452 4.2.2 full", "250 ok", "250 ok"],
        "DOT": ["250 2.0.0 one", "554 5.7.1 two is spam", "250 2.0.0 three"],
    }
    async with session(obedient(answers, extensions)) as (connection, heard):
        chain = []
        for number in range(3):
            wire = message("a@peer.test", "b@peer.test", content=b"n: %d\r\n\r\n" % number)
            transaction = connection.begin(wire, before_dot=yes)
            chain.append(transaction)
            await transaction.content_sent
        results = [await transaction.replies for transaction in chain]
    assert [codes(replies) for replies in results] == [
        [(250, "dot", Scope.MESSAGE), (550, "rcpt", Scope.RECIPIENT)],
        [(554, "dot", Scope.MESSAGE), (452, "rcpt", Scope.RECIPIENT)],
        [(250, "dot", Scope.MESSAGE)] * 2,
    ]
    assert [replies[0].reply.text for replies in results] == ["one", "two is spam", "three"]
    assert heard.contents == [b"n: 0\r\n\r\n", b"n: 1\r\n\r\n", b"n: 2\r\n\r\n"]
    assert "RSET" not in heard.lines


async def test_the_next_mail_goes_out_before_the_answer_to_the_last_dot() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.hear_group()
        peer.say("250 ok", "250 ok", "354 go")
        await peer.take_content()
        group = await peer.hear_group()  # The answer to the dot is still owed.
        assert group[0].startswith("MAIL")
        peer.say("250 first", "250 ok", "550 5.1.1 nobody", "554 no recipients")
        await peer.hear_group()

    async with session(script) as (connection, _):
        first = connection.begin(message("a@peer.test"), before_dot=yes)
        await first.content_sent
        assert not first.replies.done()  # type: ignore[attr-defined]
        second = connection.begin(message("b@peer.test"), before_dot=yes)
        assert codes(await first.replies) == [(250, "dot", Scope.MESSAGE)]
        assert codes(await second.replies) == [(550, "rcpt", Scope.RECIPIENT)]


async def test_parameters_are_sent_only_when_they_are_offered() -> None:
    async with session(obedient()) as (connection, heard):
        await transact(connection, message("ü@peer.test", needs_8bit=True, needs_smtputf8=True))
    assert f"MAIL FROM:<from@example.com> SIZE={len(BODY)} BODY=8BITMIME SMTPUTF8" in heard.lines
    async with session(obedient(extensions=("PIPELINING",))) as (connection, heard):
        await transact(connection, message(needs_8bit=True))
        result = await transact(connection, message("ü@peer.test", needs_smtputf8=True))
    assert "MAIL FROM:<from@example.com>" in heard.lines
    assert result == [(550, "mail", Scope.MESSAGE)]
    assert len(heard.contents) == 1


async def test_a_message_over_the_offered_size_is_refused_without_a_word() -> None:
    async with session(obedient(extensions=("SIZE 40", "PIPELINING"))) as (connection, heard):
        replies = await connection.begin(message(), before_dot=yes).replies
        assert str(replies[0].reply) == (
            f"552 5.3.4 the message has {len(BODY)} octets, the server takes 40"
        )
        assert replies[0].reply.is_local
        assert connection.is_usable
    assert not any(line.startswith("MAIL") for line in heard.lines)


async def test_an_address_with_a_line_end_never_reaches_the_wire() -> None:
    async with session(obedient()) as (connection, heard):
        result = await transact(connection, message("a@peer.test>\r\nRCPT TO:<b@peer.test"))
    assert result == [(553, "mail", Scope.MESSAGE)]
    assert heard.lines == ["EHLO out.example.com", "QUIT"]


@pytest.mark.parametrize("extensions", [PIPELINING, PLAIN])
@pytest.mark.parametrize("size", [200_000, 2 * 1024 * 1024])
async def test_a_large_message_arrives_byte_for_byte(
    extensions: tuple[str, ...], size: int
) -> None:
    content = (b".a line that begins with a dot\r\nand one without\r\n" * (size // 48))[:size]
    content = content.rstrip(b"\r\n") + b"\r\n"
    async with session(obedient(extensions=extensions)) as (connection, heard):
        assert await transact(connection, message(content=content)) == [(250, "dot", Scope.MESSAGE)]
    assert heard.contents == [content]


async def test_a_slow_reader_is_waited_for_block_by_block_with_the_claim_asked_at_the_end() -> None:
    asked: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.hear_group()
        peer.say("250 ok", "250 ok", "354 go")
        for _ in range(4):
            await asyncio.sleep(0.15)  # Longer in all than a block may take, but never idle.
            await peer.reader.readexactly(2_500_000)
        assert not asked
        await peer.take_content()
        peer.say("250 taken")

    def ask(_: Sequence[int]) -> bool:
        asked.append(1)
        return True

    content = (b"x" * 9_998 + b"\r\n") * 2_000
    async with session(script, Timeouts(block_s=0.5)) as (connection, _):
        assert await transact(connection, message(content=content), ask) == [
            (250, "dot", Scope.MESSAGE)
        ]
    assert asked == [1]


async def test_content_its_dot_and_the_next_mail_leave_in_one_write() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.hear_group()
        peer.say("250 ok", "250 ok", "354 go")
        assert (await peer.reader.read(65536)).endswith(b"\r\n.\r\n" + GROUP)
        peer.say("250 first", "250 ok", "250 ok", "354 go")
        await peer.take_content()
        peer.say("250 second")

    async with session(script) as (connection, _):
        first = connection.begin(message(), before_dot=yes)
        await first.content_sent
        second = connection.begin(message(), before_dot=yes)
        assert [r[0].reply.text for r in (await first.replies, await second.replies)] == [
            "first",
            "second",
        ]


async def test_any_content_arrives_as_it_was_given() -> None:
    draw = random.Random(2)
    contents = [
        b"".join(
            bytes(draw.choices(b".ab \t\xc3\xbc", k=draw.randrange(6))) + b"\r\n"
            for _ in range(draw.randrange(12))
        )
        for _ in range(150)
    ]
    async with session(obedient()) as (connection, heard):
        chain = []
        for content in contents:
            chain.append(connection.begin(message(content=content), before_dot=yes))
            await chain[-1].content_sent
        for transaction in chain:
            assert codes(await transaction.replies) == [(250, "dot", Scope.MESSAGE)]
    assert heard.contents == contents
