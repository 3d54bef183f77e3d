"""The SMTP client tells what a lost, stalled or garbled line means for the mail on it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from typing import Any

import pytest

from mailcore.outcome import Scope
from mailcore.ports import (
    Disconnected,
    TimedOut,
    Withheld,
)
from mailio.smtp import SmtpConnector, Timeouts
from tests.support.smtp_peer import PIPELINING, PLAIN, Peer, obedient, serving
from tests.support.smtp_session import (
    endpoint,
    hasty,
    message,
    no,
    session,
    transact,
    yes,
)


async def test_a_close_after_the_dot_leaves_the_outcome_unknown() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.hear_group()
        peer.say("250 ok", "250 ok", "550 5.1.1 nobody", "354 go")
        await peer.take_content()
        peer.drop()

    async with session(script) as (connection, _):
        first = connection.begin(message("a@peer.test", "b@peer.test"), before_dot=yes)
        await first.content_sent
        second = connection.begin(message("c@peer.test"), before_dot=yes)
        with pytest.raises(Disconnected) as caught:
            await first.replies
        assert caught.value.after_dot
        assert caught.value.stage == "dot"
        assert caught.value.decided[0] is None
        known = caught.value.decided[1]
        assert known is not None
        assert known.reply.code == 550
        with pytest.raises(Disconnected) as behind:
            await second.replies
        assert not behind.value.after_dot


@pytest.mark.parametrize("after", ["greeting", "mail", "data"])
async def test_a_close_before_the_dot_is_known_to_have_delivered_nothing(after: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        if after != "greeting":
            await peer.hear_group()
            peer.say("250 ok", *(["250 ok"] if after == "data" else []))
        peer.writer.close()

    async with session(script) as (connection, _):
        with pytest.raises(Disconnected) as caught:
            await connection.begin(message(), before_dot=yes).replies
        assert not caught.value.after_dot
        assert caught.value.scope is Scope.SESSION
        assert caught.value.reply.is_local


STALLS = {
    "mail": (),
    "rcpt": ("250 ok",),
    "data": ("250 ok", "250 ok"),
    "dot": ("250 ok", "250 ok", "354 go"),
}


@pytest.mark.parametrize("extensions", [PIPELINING, PLAIN])
@pytest.mark.parametrize("stage", STALLS)
async def test_a_stall_at_any_step_ends_with_its_own_timeout(
    stage: str, extensions: tuple[str, ...]
) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet(extensions)
        for reply in STALLS[stage]:
            await peer.hear()
            peer.say(reply)
        await peer.stall()

    async with session(script, hasty(stage)) as (connection, _):
        with pytest.raises(TimedOut) as caught:
            await connection.begin(message(), before_dot=yes).replies
        assert caught.value.stage == stage
        assert caught.value.after_dot is (stage == "dot")
        assert caught.value.scope is Scope.HOST
        assert not connection.is_usable


async def test_a_peer_that_stops_reading_content_meets_the_block_timeout() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.hear_group()
        peer.say("250 ok", "250 ok", "354 go")
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(30)

    content = (b"x" * 76 + b"\r\n") * 300_000
    async with session(script, hasty("block")) as (connection, _):
        with pytest.raises(TimedOut) as caught:
            await connection.begin(message(content=content), before_dot=yes).replies
        assert caught.value.stage == "data"
        assert not caught.value.after_dot


async def test_a_reply_that_drips_byte_by_byte_does_not_move_the_deadline() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.hear()
        await peer.drip("250 " + "x" * 400, pause_s=0.02)

    async with session(script, hasty("mail")) as (connection, _):
        with pytest.raises(TimedOut):
            await connection.begin(message(), before_dot=yes).replies


async def test_a_dripping_but_whole_dialogue_is_understood() -> None:
    async def script(peer: Peer) -> None:
        await peer.drip("220-peer.test\r\n220 hello\r\n", pause_s=0)
        await peer.hear_verb("EHLO")
        await peer.drip("250-peer.test\r\n250 PIPELINING\r\n", pause_s=0)
        await peer.hear_group()
        await peer.drip("250 ok\r\n250-2.1.5 yes\r\n250 2.1.5 sure\r\n354 go\r\n", pause_s=0)
        await peer.take_content()
        await peer.drip("250-2.0.0 queued\r\n250 2.0.0 as 7\r\n", pause_s=0)
        await peer.stall()

    async with session(script) as (connection, _):
        replies = await connection.begin(message(), before_dot=yes).replies
        assert str(replies[0].reply) == "250 2.0.0 queued as 7"


async def test_a_withdrawn_claim_stops_before_the_dot() -> None:
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.hear_group()
        peer.say("250 ok", "250 ok", "354 go")
        seen.append(await peer.reader.read(65536))

    async with session(script) as (connection, heard):
        transaction = connection.begin(message(), before_dot=no)
        with pytest.raises(Withheld) as caught:
            await transaction.replies
        await transaction.content_sent
        assert not caught.value.after_dot
        assert caught.value.stage == "data"
        assert not connection.is_usable
    assert heard.contents == []
    assert not any(part.endswith(b"\r\n.\r\n") for part in seen)


async def test_a_claim_withdrawn_under_a_chain_loses_the_one_behind_it_as_well() -> None:
    async with session(obedient()) as (connection, heard):
        first = connection.begin(message("a@peer.test"), before_dot=no)
        await first.content_sent
        second = connection.begin(message("b@peer.test"), before_dot=yes)
        with pytest.raises(Withheld):
            await first.replies
        with pytest.raises(Disconnected) as caught:
            await second.replies
        assert not caught.value.after_dot
        assert caught.value.stage == "mail"
    assert heard.contents == []


async def test_a_check_that_fails_before_the_dot_withholds_it_and_is_heard_of() -> None:
    complaints: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: complaints.append(context["exception"])
    )

    def broken(_: Sequence[int]) -> bool:
        raise OSError("the journal's disk is full")

    async with session(obedient()) as (connection, heard):
        with pytest.raises(Withheld):
            await connection.begin(message(), before_dot=broken).replies
        assert not connection.is_usable
    assert heard.contents == []
    assert [str(exc) for exc in complaints] == ["the journal's disk is full"]


@pytest.mark.parametrize(
    "noise", ["hello there", "999 what", "25", "250 ok\r\n250 unasked", "354 no", "250+x", "\x00"]
)
async def test_an_answer_that_is_no_smtp_reply_defers_as_a_broken_line(noise: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet(PLAIN)
        await peer.hear()
        peer.say(noise)
        await peer.stall()

    async with session(script) as (connection, _):
        transaction = connection.begin(message(), before_dot=yes)
        with pytest.raises(Disconnected) as caught:
            await transaction.replies
        assert "protocol error" in caught.value.reply.text
        assert caught.value.reply.is_transient


async def test_closing_says_quit_and_does_not_wait_for_ever() -> None:
    async with session(obedient()) as (connection, heard):
        pass
    assert heard.lines == ["EHLO out.example.com", "QUIT"]

    async def mute(peer: Peer) -> None:
        await peer.greet()
        await peer.stall()

    async with session(mute) as (connection, _):
        await connection.close()
        await connection.close()
        assert not connection.is_usable


async def test_closing_with_mail_under_way_tells_who_waits() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.stall()

    async with session(script) as (connection, _):
        transaction = connection.begin(message(), before_dot=yes)
        await connection.close()
        with pytest.raises(Disconnected):
            await transaction.replies


async def test_a_lost_line_that_nobody_waits_for_is_not_logged() -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.hear()
        peer.drop()

    async with session(script) as (connection, _):
        connection.begin(message(), before_dot=yes)
        while connection.is_usable:
            await asyncio.sleep(0.005)
    del connection
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


async def test_a_cancelled_connect_leaves_no_session_behind() -> None:
    left = asyncio.Event()

    async def script(peer: Peer) -> None:
        try:
            await peer.stall()
        finally:
            left.set()

    async with serving(script) as heard:
        opening = asyncio.ensure_future(SmtpConnector(Timeouts()).connect(endpoint(heard)))
        while not heard.sessions:
            await asyncio.sleep(0.005)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await asyncio.wait_for(left.wait(), 60)


async def test_a_cancelled_wait_for_replies_does_not_disturb_the_session() -> None:
    async with session(obedient()) as (connection, heard):
        transaction = connection.begin(message(), before_dot=yes)
        waiting = asyncio.ensure_future(transaction.replies)
        waiting.cancel()
        await transaction.content_sent
        assert await transact(connection, message()) == [(250, "dot", Scope.MESSAGE)]
    assert len(heard.contents) == 2
