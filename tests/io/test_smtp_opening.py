"""The SMTP client opens sessions: connect, greeting, EHLO, STARTTLS."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import aiosmtpd.smtp
import pytest

from mailcore.outcome import Scope
from mailcore.policy.words import TlsMode
from mailcore.ports import (
    ConnectFailed,
    Disconnected,
    TimedOut,
    TlsFailed,
    TransportError,
)
from mailio.smtp import SmtpConnector, Timeouts
from tests.support.smtp_peer import Gone, Heard, Peer, Script, obedient, serving
from tests.support.smtp_session import (
    BODY,
    PATIENT,
    codes,
    endpoint,
    hasty,
    message,
    session,
    transact,
    yes,
)
from tests.support.smtp_tls import server_context


@pytest.mark.parametrize(
    ("greeting", "ehlo", "stage"),
    [
        ("554 5.7.1 no service for you", None, "banner"),
        ("421 4.7.0 too many connections", None, "banner"),
        ("220 hello", ["450 4.7.1 not now"], "ehlo"),
        ("220 hello", ["502 what", "550 5.7.1 nor that"], "ehlo"),
    ],
)
async def test_a_refused_session_is_the_hosts_and_carries_its_word(
    greeting: str, ehlo: list[str] | None, stage: str
) -> None:
    async def script(peer: Peer) -> None:
        peer.say(greeting)
        for answer in ehlo or ():
            await peer.hear()
            peer.say(answer)
        await peer.stall()

    async with serving(script) as heard:
        with pytest.raises(ConnectFailed) as caught:
            await SmtpConnector(PATIENT).connect(endpoint(heard))
    assert caught.value.stage == stage
    assert caught.value.scope is Scope.HOST
    assert str(caught.value.reply) == (ehlo or [greeting])[-1]
    assert not caught.value.reply.is_local


async def test_a_server_without_ehlo_is_greeted_with_helo() -> None:
    async def script(peer: Peer) -> None:
        peer.say("220 old")
        await peer.hear_verb("EHLO")
        peer.say("502 5.5.1 what")
        await peer.hear_verb("HELO OUT.EXAMPLE.COM")
        peer.say("250 old.test")
        await peer.hear_verb("MAIL FROM:<FROM@EXAMPLE.COM>")
        peer.say("250 ok")
        await peer.hear_verb("RCPT")
        peer.say("250 ok")
        await peer.hear_verb("DATA")
        peer.say("354 go")
        await peer.take_content()
        peer.say("250 ok")

    async with session(script) as (connection, _):
        assert await transact(connection, message()) == [(250, "dot", Scope.MESSAGE)]


@pytest.mark.parametrize("stage", ["banner", "ehlo", "starttls"])
async def test_a_stall_while_opening_ends_with_a_timeout(stage: str) -> None:
    async def script(peer: Peer) -> None:
        if stage != "banner":
            peer.say("220 hello")
            await peer.hear()
            if stage == "starttls":
                peer.say("250-peer.test", "250 STARTTLS")
        await peer.stall()

    # Only where it is tried and can be done without is TLS what did not work.
    for tls in (TlsMode.OPPORTUNISTIC, TlsMode.REQUIRED):
        is_tls = stage == "starttls" and tls is TlsMode.OPPORTUNISTIC
        kind: type[TransportError] = TlsFailed if is_tls else TimedOut
        async with serving(script) as heard:
            with pytest.raises(kind) as caught:
                await SmtpConnector(hasty("greeting")).connect(endpoint(heard, tls))
        assert caught.value.stage == stage
    assert caught.value.scope is Scope.HOST


async def test_a_closed_port_and_a_closing_server_are_told_apart() -> None:
    async def script(peer: Peer) -> None:
        peer.drop()

    async with serving(script) as heard:
        with pytest.raises(Disconnected) as caught:
            await SmtpConnector(PATIENT).connect(endpoint(heard))
        assert caught.value.scope is Scope.HOST
    with pytest.raises(ConnectFailed) as refused:
        await SmtpConnector(PATIENT).connect(endpoint(heard))
    assert refused.value.stage == "connect"
    assert refused.value.scope is Scope.HOST


async def test_a_source_address_that_is_not_ours_is_the_sources_failure() -> None:
    async with serving(obedient()) as heard:
        with pytest.raises(ConnectFailed) as caught:
            await SmtpConnector(PATIENT).connect(endpoint(heard, source_address="192.0.2.7"))
    assert caught.value.scope is Scope.SOURCE
    assert "192.0.2.7" in caught.value.reply.text


async def test_the_session_goes_out_from_the_source_address() -> None:
    seen: list[str] = []

    async def script(peer: Peer) -> None:
        seen.append(peer.writer.get_extra_info("peername")[0])
        await obedient()(peer)

    async with serving(script) as heard:
        connection = await SmtpConnector(PATIENT).connect(
            endpoint(heard, source_address="127.0.0.9")
        )
        assert connection.session.source_address == "127.0.0.9"
        await connection.close()
    assert seen == ["127.0.0.9"]


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "not an address"])
async def test_lab_mode_refuses_every_address_outside_loopback(address: str) -> None:
    connector = SmtpConnector(PATIENT, confine_to_loopback=True)
    with pytest.raises(ConnectFailed, match="lab mode"):
        await connector.connect(endpoint(Heard(port=25), address=address))


@pytest.fixture(scope="module")
def server_tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """A server's TLS context with a certificate of its own."""
    return server_context(tmp_path_factory.mktemp("tls"))


def tls_server(context: ssl.SSLContext, *, injected: bytes = b"") -> Script:
    """Return a server that offers STARTTLS, and other things before and after it."""

    async def script(peer: Peer) -> None:
        await peer.greet(("STARTTLS", "SIZE 1", "PIPELINING"))
        await peer.hear_verb("STARTTLS")
        peer.writer.write(b"220 go\r\n" + injected)
        await peer.start_tls(context)
        await peer.hear_verb("EHLO")
        peer.say("250-peer.test", "250 PIPELINING")
        await peer.hear_group()
        peer.say("250 ok", "250 ok", "354 go")
        await peer.take_content()
        peer.say("250 2.0.0 private")
        await peer.hear_verb("QUIT")
        peer.say("221 bye")

    return script


@pytest.mark.parametrize("tls", [TlsMode.OPPORTUNISTIC, TlsMode.REQUIRED])
async def test_mail_goes_under_tls_where_it_is_offered(
    server_tls: ssl.SSLContext, tls: TlsMode
) -> None:
    async with session(tls_server(server_tls), PATIENT, tls) as (connection, heard):
        assert connection.session.tls_version.startswith("TLSv1.")
        assert connection.session.tls_cipher
        assert await transact(connection, message()) == [(250, "dot", Scope.MESSAGE)]
    assert heard.contents == [BODY]
    assert heard.tls == [connection.session.tls_version]


async def test_a_large_message_goes_under_tls(server_tls: ssl.SSLContext) -> None:
    content = b"Subject: x\r\n\r\n" + (b"y" * 76 + b"\r\n") * 27_000
    async with session(tls_server(server_tls)) as (connection, heard):
        assert await transact(connection, message(content=content)) == [(250, "dot", Scope.MESSAGE)]
    assert heard.contents == [content]


async def test_what_is_injected_in_clear_behind_starttls_counts_for_nothing(
    server_tls: ssl.SSLContext,
) -> None:
    injected = b"250-evil.test\r\n250 AUTH\r\n421 4.0.0 closing\r\n"
    script = tls_server(server_tls, injected=injected)
    async with session(script) as (connection, heard):
        assert connection.session.tls_version
        assert await transact(connection, message()) == [(250, "dot", Scope.MESSAGE)]
    assert heard.contents == [BODY]


@pytest.mark.parametrize("manner", ["garbage", "stall", "drop"])
async def test_a_failed_handshake_says_so(manner: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet(("STARTTLS",))
        await peer.hear()
        peer.say("220 go")
        await peer.reader.read(1)
        if manner == "garbage":
            peer.say("this is no TLS record at all")
        if manner == "drop":
            peer.drop()
            raise Gone
        await peer.stall()

    async with serving(script) as heard:
        timeouts = hasty("tls") if manner == "stall" else PATIENT
        with pytest.raises(TlsFailed) as caught:
            await SmtpConnector(timeouts).connect(endpoint(heard))
    assert caught.value.stage == "starttls"
    assert caught.value.scope is Scope.HOST


async def test_a_refused_starttls_is_bearable_unless_tls_is_required() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet(("STARTTLS", "PIPELINING"))
        await peer.hear_verb("STARTTLS")
        peer.say("454 4.7.0 not available")
        await peer.hear_group()
        peer.say("250 ok", "250 ok", "354 go")
        await peer.take_content()
        peer.say("250 in clear")

    async with session(script) as (connection, _):
        assert connection.session.tls_version == ""
        assert await transact(connection, message()) == [(250, "dot", Scope.MESSAGE)]
    async with serving(script) as heard:
        with pytest.raises(TlsFailed, match="not available"):
            await SmtpConnector(PATIENT).connect(endpoint(heard, TlsMode.REQUIRED))
    async with serving(obedient()) as heard:
        with pytest.raises(TlsFailed, match="not offered"):
            await SmtpConnector(PATIENT).connect(endpoint(heard, TlsMode.REQUIRED))


async def test_tls_is_not_asked_for_where_the_path_says_none() -> None:
    script = obedient(extensions=("STARTTLS", "PIPELINING"))
    async with session(script, tls=TlsMode.NONE) as (connection, heard):
        assert await transact(connection, message()) == [(250, "dot", Scope.MESSAGE)]
    assert "STARTTLS" not in heard.lines


class Mailbox:
    """A handler of aiosmtpd that keeps what it takes."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, list[str], bytes]] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        """Take a message."""
        self.taken.append((envelope.mail_from, envelope.rcpt_tos, envelope.content))
        return "250 2.0.0 taken"


@pytest.mark.parametrize("is_under_tls", [False, True])
async def test_another_implementation_takes_our_mail(
    server_tls: ssl.SSLContext, is_under_tls: bool
) -> None:
    mailbox = Mailbox()
    context = server_tls if is_under_tls else None
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: aiosmtpd.smtp.SMTP(
            mailbox, hostname="mx.test", tls_context=context, enable_SMTPUTF8=True, loop=loop
        ),
        "127.0.0.1",
        0,
    )
    heard = Heard(port=server.sockets[0].getsockname()[1])
    connection = await SmtpConnector(Timeouts()).connect(endpoint(heard))
    assert bool(connection.session.tls_version) is is_under_tls
    chain = []
    for number in range(3):
        content = b"Subject: %d\r\n\r\n.dot\r\n" % number
        wire = message("ü@peer.test", content=content, needs_8bit=True, needs_smtputf8=True)
        chain.append(connection.begin(wire, before_dot=yes))
        await chain[-1].content_sent
    for transaction in chain:
        assert codes(await transaction.replies) == [(250, "dot", Scope.MESSAGE)]
    await connection.close()
    server.close()
    assert mailbox.taken == [
        ("from@example.com", ["ü@peer.test"], b"Subject: %d\r\n\r\n.dot\r\n" % number)
        for number in range(3)
    ]
