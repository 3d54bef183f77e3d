"""The SMTP client sends chunks, relays' credentials and nothing too early, on real sockets."""

from __future__ import annotations

import base64
import ssl

import pytest

from mailcore.outcome import Scope
from mailcore.policy.words import TlsMode
from mailcore.ports import ConnectFailed, Disconnected, Withheld
from mailcore.transaction import Credentials
from mailio.smtp import SmtpConnector
from mailio.smtp_protocol import SmtpProtocol
from tests.support.smtp_peer import Heard, Peer, Script, serving
from tests.support.smtp_session import (
    BODY,
    PATIENT,
    codes,
    endpoint,
    message,
    no,
    session,
    transact,
    yes,
)
from tests.support.smtp_tls import server_context

CHUNKING = ("PIPELINING", "CHUNKING", "ENHANCEDSTATUSCODES", "LIMITS MAILMAX=3")


async def take_chunk(peer: Peer) -> bytes:
    """Return what one BDAT LAST carries."""
    line = await peer.hear_verb("BDAT ")
    assert line.endswith(" LAST")
    content = await peer.reader.readexactly(int(line.split(" ")[1]))
    peer.heard.contents.append(content)
    return content


async def test_a_chunk_and_the_next_mail_leave_in_one_write() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet(CHUNKING)
        await peer.hear_group()
        peer.say("250 2.1.0 ok", "250 2.1.5 ok")
        whole = await peer.reader.read(65536)
        assert whole == b"BDAT %d LAST\r\n" % len(BODY) + BODY + (
            b"MAIL FROM:<from@example.com>\r\nRCPT TO:<a@peer.test>\r\n"
        )
        peer.say("250 2.0.0 first", "250 2.1.0 ok", "250 2.1.5 ok")
        await take_chunk(peer)
        peer.say("250 2.0.0 second")
        await peer.hear_verb("QUIT")

    async with session(script) as (connection, _):
        first = connection.begin(message(), before_dot=yes)
        await first.content_sent
        second = connection.begin(message(), before_dot=yes)
        texts = [(await each.replies)[0].reply.text for each in (first, second)]
    assert texts == ["first", "second"]


async def test_no_more_messages_go_than_the_server_takes_and_the_end_is_polite() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet(("PIPELINING", "LIMITS MAILMAX=1"))
        await peer.hear_group()
        peer.say("250 ok", "250 ok", "354 go")
        await peer.take_content()
        peer.say("250 ok")
        await peer.hear_verb("QUIT")

    async with session(script) as (connection, heard):
        could = connection.is_usable
        assert await transact(connection, message()) == [(250, "dot", Scope.MESSAGE)]
        assert (could, connection.is_usable) == (True, False)
    assert heard.lines[-1] == "QUIT"


@pytest.mark.parametrize("size", [1_000, 127_000, 131_073, 3_000_000])
async def test_a_withdrawn_claim_keeps_the_last_octets_of_a_chunk(size: int) -> None:
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.greet(CHUNKING)
        await peer.hear_group()
        peer.say("250 2.1.0 ok", "250 2.1.5 ok")
        while data := await peer.reader.read(1 << 20):
            seen.append(data)

    content = b"x" * (size - 2) + b"\r\n"
    async with session(script) as (connection, _):
        transaction = connection.begin(message(content=content), before_dot=no)
        with pytest.raises(Withheld) as caught:
            await transaction.replies
        assert not caught.value.after_dot
        assert caught.value.stage == "data"
    whole = b"".join(seen)
    assert len(whole) < len(b"BDAT %d LAST\r\n" % size) + size


@pytest.mark.parametrize("size", [1_000, 131_073, 3_000_000])
async def test_a_chunk_of_any_size_arrives_to_the_octet(size: int) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet(CHUNKING)
        await peer.hear_group()
        peer.say("250 2.1.0 ok", "250 2.1.5 ok")
        await take_chunk(peer)
        peer.say("250 2.0.0 ok")
        await peer.hear_verb("QUIT")

    content = (b"a\n.\nb\r.\rc\r\n.\r\n" * (size // 14 + 1))[: size - 2] + b"\r\n"
    async with session(script) as (connection, heard):
        assert await transact(connection, message(content=content)) == [(250, "dot", Scope.MESSAGE)]
    assert heard.contents == [content]


async def test_a_server_that_offers_bdat_in_vain_is_sent_data_from_then_on() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet(CHUNKING)
        group = await peer.hear_group()
        peer.say("250 2.1.0 ok", "250 2.1.5 ok", *(["354 go"] if "DATA" in group else []))
        if "DATA" in group:
            await peer.take_content()
            peer.say("250 2.0.0 ok")
        else:
            await peer.hear_verb("BDAT")
            peer.say("502 5.5.1 what")
        await peer.stall()

    async with serving(script) as heard:
        connector = SmtpConnector(PATIENT, confine_to_loopback=True)
        first = await connector.connect(endpoint(heard))
        assert await transact(first, message()) == [(451, "dot", Scope.SESSION)]
        assert not first.is_usable
        second = await connector.connect(endpoint(heard))
        assert await transact(second, message()) == [(250, "dot", Scope.MESSAGE)]
        await second.close()
    assert heard.contents == [BODY]


async def test_an_answer_that_comes_before_the_end_was_sent_delivers_nothing() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet(CHUNKING)
        await peer.hear_group()
        peer.say("250 2.1.0 ok", "250 2.1.5 ok")
        await peer.reader.readexactly(5_000)
        peer.say("250 2.0.0 got it all")
        await peer.stall()

    content = (b"x" * 998 + b"\r\n") * 20_000
    async with session(script) as (connection, _):
        with pytest.raises(Disconnected) as caught:
            await connection.begin(message(content=content), before_dot=yes).replies
        assert not caught.value.after_dot


async def test_an_answer_in_the_very_turn_that_ends_the_content_delivers_nothing() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.hear_group()
        peer.say("250 ok", "250 ok", "354 go")
        await peer.take_content()

    async with session(script) as (connection, heard):
        assert isinstance(connection, SmtpProtocol)
        transaction = connection.begin(message(), before_dot=yes)
        await transaction.content_sent  # It is decided, and leaves when this turn ends.
        connection.data_received(b"250 2.0.0 got it all\r\n")
        with pytest.raises(Disconnected) as caught:
            await transaction.replies
        assert not caught.value.after_dot
    assert heard.contents == []


def relay(context: ssl.SSLContext | None, answer: str) -> Script:
    """Return a relay that wants to know who we are, under TLS if it has a context."""

    async def script(peer: Peer) -> None:
        if context is not None:
            await peer.greet(("STARTTLS",))
            await peer.hear_verb("STARTTLS")
            peer.say("220 go")
            await peer.start_tls(context)
            await peer.hear_verb("EHLO")
            peer.say("250-relay.test", "250-PIPELINING", "250 AUTH PLAIN LOGIN")
        else:
            await peer.greet(("PIPELINING", "AUTH PLAIN LOGIN"))
        await peer.hear_verb("AUTH PLAIN ")
        peer.say(answer)
        await peer.hear_group()
        peer.say("250 ok", "250 ok", "354 go")
        await peer.take_content()
        peer.say("250 2.0.0 relayed")
        await peer.stall()

    return script


@pytest.fixture(scope="module")
def server_tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    return server_context(tmp_path_factory.mktemp("tls"))


async def identified(
    heard: Heard, tls: TlsMode, *, allows_clear: bool = False
) -> list[tuple[int, str, Scope]]:
    """Send one message through a relay."""
    known = Credentials("me", "top secret", allows_clear=allows_clear)
    connection = await SmtpConnector(PATIENT).connect(endpoint(heard, tls, credentials=known))
    replies = await connection.begin(message(), before_dot=yes).replies
    await connection.close()
    return codes(replies)


async def test_a_relay_is_told_who_we_are_before_any_mail(server_tls: ssl.SSLContext) -> None:
    async with serving(relay(server_tls, "235 2.7.0 ok")) as heard:
        result = await identified(heard, TlsMode.REQUIRED)
    assert result == [(250, "dot", Scope.MESSAGE)]
    said = base64.b64encode(b"\0me\0top secret").decode()
    assert f"AUTH PLAIN {said}" in heard.lines


async def test_credentials_travel_in_clear_only_where_the_operator_says_so() -> None:
    async with serving(relay(None, "235 2.7.0 ok")) as heard:
        with pytest.raises(ConnectFailed, match="do not travel in clear") as caught:
            await identified(heard, TlsMode.OPPORTUNISTIC)
        assert (caught.value.stage, caught.value.scope) == ("auth", Scope.HOST)
        assert not any("AUTH" in line for line in heard.lines)
        result = await identified(heard, TlsMode.NONE, allows_clear=True)
    assert result == [(250, "dot", Scope.MESSAGE)]


async def test_wrong_credentials_are_the_sources_and_stand_in_no_error() -> None:
    said = base64.b64encode(b"\0me\0top secret").decode()
    async with serving(relay(None, f"535 5.7.8 no: {said}")) as heard:
        with pytest.raises(ConnectFailed) as caught:
            await identified(heard, TlsMode.NONE, allows_clear=True)
    assert (caught.value.stage, caught.value.scope) == ("auth", Scope.SOURCE)
    assert str(caught.value) == "auth: 535 5.7.8 no: ***"
