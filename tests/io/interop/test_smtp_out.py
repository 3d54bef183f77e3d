"""Our client and the servers of the world: what they take is what was sent, once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from mailcore.outcome import Scope
from mailcore.policy.words import TlsMode
from mailcore.ports import TlsFailed, WireMessage
from mailio.smtp import SmtpConnector
from mailio.smtp_protocol import SmtpProtocol
from tests.io.interop.conftest import Fresh
from tests.io.interop.peers import HEADER, NOBODY, Peer, letters, send_all
from tests.support.smtp_peer import Heard
from tests.support.smtp_session import endpoint

SENDER = "news@shop.test"
SERVERS = ["postfix", "exim", "opensmtpd", "aiosmtpd"]
CLEAR, TLS = TlsMode.NONE, TlsMode.REQUIRED
each_server = pytest.mark.parametrize("peer", SERVERS, indirect=True)


@asynccontextmanager
async def session(
    peer: Peer, tls: TlsMode = CLEAR, *, allows_chunking: bool = True
) -> AsyncIterator[SmtpProtocol]:
    connector = SmtpConnector(confine_to_loopback=True)
    where = endpoint(Heard(port=peer.port), tls, allows_chunking=allows_chunking)
    connection = await connector.connect(where)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.mark.parametrize("tls", [CLEAR, TLS])
@pytest.mark.parametrize(
    ("peer", "allows_chunking"),
    [(name, True) for name in SERVERS] + [("postfix", False)],
    indirect=["peer"],
)
async def test_bodies_of_every_shape_arrive_as_they_were_sent(
    peer: Peer, fresh: Fresh, tls: TlsMode, *, allows_chunking: bool
) -> None:
    if tls is TLS and peer.tls_fault:
        pytest.skip(f"{peer.name} cannot do TLS as a server here: {peer.tls_fault}")
    to = fresh("shapes")
    sent = letters(SENDER, *to)
    async with session(peer, tls, allows_chunking=allows_chunking) as connection:
        assert await send_all(connection, sent) == [[(250, "dot")]] * len(sent)
        assert bool(connection.session.tls_version) == (tls is TLS)
        assert connection.is_usable
    assert peer.arrived(*to, count=len(sent)) == sorted(each.content for each in sent)


@each_server
async def test_one_recipient_refused_takes_nothing_from_the_others(
    peer: Peer, fresh: Fresh
) -> None:
    first, last = fresh("first", "last")
    message = WireMessage(SENDER, (first, NOBODY, last), HEADER % (b"three", b"three") + b"x\r\n")
    async with session(peer) as connection:
        answers = await send_all(connection, [message, message])
        assert answers == [[(250, "dot"), (550, "rcpt"), (250, "dot")]] * 2
        refused = replace(message, forward_paths=(NOBODY,))
        assert await send_all(connection, [refused, message, refused]) == [
            [(550, "rcpt")],
            answers[0],
            [(550, "rcpt")],
        ]
    for one in (first, last):
        assert peer.arrived(one, count=3) == [message.content] * 3


@each_server
async def test_content_without_a_line_end_gets_one_and_no_more(peer: Peer, fresh: Fresh) -> None:
    (to,) = fresh("unended")
    content = HEADER % (b"unended", b"unended") + b"x"
    async with session(peer) as connection:
        assert await send_all(connection, [WireMessage(SENDER, (to,), content)]) == [[(250, "dot")]]
    assert peer.arrived(to, count=1) == [content + b"\r\n"]


@each_server
async def test_an_address_in_other_letters_goes_where_it_can(peer: Peer, fresh: Fresh) -> None:
    (to,) = fresh("jürgen-漢字")
    content = (HEADER % (b"utf8", b"utf8")).replace(b"News", "Grüße".encode()) + b"x\r\n"
    message = WireMessage(SENDER, (to,), content, needs_8bit=True, needs_smtputf8=True)
    async with session(peer) as connection:
        if not peer.has_smtputf8:
            assert await send_all(connection, [message]) == [[(550, "mail")]]
            assert peer.arrivals(to) == []
            return
        assert await send_all(connection, [message]) == [[(250, "dot")]]
    assert peer.arrived(to, count=1) == [content]


async def test_a_server_whose_tls_is_broken_is_named_and_takes_mail_in_clear(
    opensmtpd_peer: Peer,
) -> None:
    if not opensmtpd_peer.tls_fault:
        pytest.skip(f"{opensmtpd_peer.name} does TLS here")
    with pytest.raises(TlsFailed) as caught:
        async with session(opensmtpd_peer, TlsMode.OPPORTUNISTIC):
            pass
    assert (caught.value.stage, caught.value.scope) == ("starttls", Scope.HOST)
    async with session(opensmtpd_peer, CLEAR) as connection:
        assert connection.is_usable
