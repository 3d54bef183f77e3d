"""The SMTP client against servers that accept, refuse, stall, drop and lie, on real sockets."""

from __future__ import annotations

import asyncio
import gc
import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiosmtpd.smtp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mailcore.outcome import Scope
from mailcore.policy.model import TlsMode
from mailcore.ports import (
    ConnectFailed,
    Connection,
    Connector,
    Disconnected,
    Endpoint,
    RecipientReply,
    TimedOut,
    TlsFailed,
    WireMessage,
    Withheld,
)
from mailio.smtp import SmtpConnector, Timeouts
from tests.support.smtp_peer import PIPELINING, PLAIN, Gone, Heard, Peer, Script, obedient, serving

BODY = b"Subject: hello\r\n\r\n.leading dot\r\n..two\r\nlast\r\n"
GROUP = b"MAIL FROM:<from@example.com> SIZE=%d\r\nRCPT TO:<a@peer.test>\r\nDATA\r\n" % len(BODY)
SHORT = Timeouts(
    connect_s=2,
    tls_s=0.15,
    greeting_s=0.15,
    mail_s=0.15,
    rcpt_s=0.15,
    data_s=0.15,
    block_s=0.15,
    dot_s=0.15,
    quit_s=0.05,
)


@pytest.fixture(scope="module")
def server_tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """A server's TLS context with a certificate of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mx.test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path: Path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def endpoint(heard: Heard, tls: TlsMode = TlsMode.OPPORTUNISTIC, **changes: Any) -> Endpoint:
    """Return where the peer listens."""
    values: dict[str, Any] = {
        "host": "mx.test",
        "address": "127.0.0.1",
        "port": heard.port,
        "source_address": "127.0.0.1",
        "ehlo_name": "out.example.com",
        "tls": tls,
    }
    return Endpoint(**(values | changes))


@asynccontextmanager
async def session(
    script: Script, timeouts: Timeouts = SHORT, tls: TlsMode = TlsMode.OPPORTUNISTIC
) -> AsyncIterator[tuple[Connection, Heard]]:
    """Open a session to a server that follows the script."""
    async with serving(script) as heard:
        connector: Connector = SmtpConnector(timeouts, confine_to_loopback=True)
        connection = await connector.connect(endpoint(heard, tls))
        try:
            yield connection, heard
        finally:
            await connection.close()


def message(*recipients: str, content: bytes = BODY, **changes: Any) -> WireMessage:
    """Return a message to these recipients."""
    return WireMessage("from@example.com", recipients or ("a@peer.test",), content, **changes)


def yes() -> bool:
    """The claim is ours."""
    return True


def codes(replies: tuple[RecipientReply, ...]) -> list[tuple[int, str, Scope]]:
    """Return what decided over each recipient."""
    return [(reply.reply.code, reply.stage, reply.scope) for reply in replies]


async def transact(
    connection: Connection, wire: WireMessage, before_dot: Callable[[], bool] = yes
) -> list[tuple[int, str, Scope]]:
    """Send one message and return what decided over each recipient."""
    return codes(await connection.begin(wire, before_dot=before_dot).replies)


# ── what is said ──────────────────────────────────────────────────────────────────────────────


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
    async with session(obedient(extensions=extensions), Timeouts()) as (connection, heard):
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

    def ask() -> bool:
        asked.append(1)
        return True

    content = (b"x" * 9_998 + b"\r\n") * 2_000
    async with session(script, Timeouts(block_s=0.5)) as (connection, _):
        assert await transact(connection, message(content=content), ask) == [
            (250, "dot", Scope.MESSAGE)
        ]
    assert asked == [1]


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


# ── refusals ──────────────────────────────────────────────────────────────────────────────────


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

    def ask() -> bool:
        asked.append(1)
        return True

    async with session(script, Timeouts()) as (connection, _):
        transaction = connection.begin(message(content=content), before_dot=ask)
        assert codes(await transaction.replies) == [(552, "data", Scope.MESSAGE)]
        assert not connection.is_usable
    assert not asked


# ── lost lines ────────────────────────────────────────────────────────────────────────────────


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

    async with session(script) as (connection, _):
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
    async with session(script) as (connection, _):
        with pytest.raises(TimedOut) as caught:
            await connection.begin(message(content=content), before_dot=yes).replies
        assert caught.value.stage == "data"
        assert not caught.value.after_dot


async def test_a_reply_that_drips_byte_by_byte_does_not_move_the_deadline() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.hear()
        await peer.drip("250 " + "x" * 400, pause_s=0.02)

    async with session(script) as (connection, _):
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

    async with session(script, Timeouts(quit_s=0.01)) as (connection, _):
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
        transaction = connection.begin(message(), before_dot=lambda: False)
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
        first = connection.begin(message("a@peer.test"), before_dot=lambda: False)
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

    def broken() -> bool:
        raise OSError("the journal's disk is full")

    async with session(obedient()) as (connection, heard):
        with pytest.raises(Withheld):
            await connection.begin(message(), before_dot=broken).replies
        assert not connection.is_usable
    assert heard.contents == []
    assert [str(exc) for exc in complaints] == ["the journal's disk is full"]


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


@pytest.mark.parametrize(
    "noise", ["hello there", "999 what", "25", "250 ok\r\n250 unasked", "354 no", "250+x", "\x00"]
)
async def test_an_answer_that_is_no_smtp_reply_defers_as_a_broken_line(noise: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet(PLAIN)
        await peer.hear()
        peer.say(noise)
        if noise.startswith("250 ok"):
            await peer.hear()
        await peer.stall()

    async with session(script) as (connection, _):
        transaction = connection.begin(message(), before_dot=yes)
        if noise.startswith("250 ok"):
            # The second reply takes the place of the answer to RCPT; DATA's answer is then due.
            with pytest.raises(TimedOut):
                await transaction.replies
            return
        with pytest.raises(Disconnected) as caught:
            await transaction.replies
        assert "protocol error" in caught.value.reply.text
        assert caught.value.reply.is_transient


# ── opening ───────────────────────────────────────────────────────────────────────────────────


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
            await SmtpConnector(SHORT).connect(endpoint(heard))
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

    async with serving(script) as heard:
        with pytest.raises(TimedOut) as caught:
            await SmtpConnector(SHORT).connect(endpoint(heard))
    assert caught.value.stage == stage
    assert caught.value.scope is Scope.HOST


async def test_a_closed_port_and_a_closing_server_are_told_apart() -> None:
    async def script(peer: Peer) -> None:
        peer.drop()

    async with serving(script) as heard:
        with pytest.raises(Disconnected) as caught:
            await SmtpConnector(SHORT).connect(endpoint(heard))
        assert caught.value.scope is Scope.HOST
    with pytest.raises(ConnectFailed) as refused:
        await SmtpConnector(SHORT).connect(endpoint(heard))
    assert refused.value.stage == "connect"
    assert refused.value.scope is Scope.HOST


async def test_a_source_address_that_is_not_ours_is_the_sources_failure() -> None:
    async with serving(obedient()) as heard:
        with pytest.raises(ConnectFailed) as caught:
            await SmtpConnector(SHORT).connect(endpoint(heard, source_address="192.0.2.7"))
    assert caught.value.scope is Scope.SOURCE
    assert "192.0.2.7" in caught.value.reply.text


async def test_the_session_goes_out_from_the_source_address() -> None:
    seen: list[str] = []

    async def script(peer: Peer) -> None:
        seen.append(peer.writer.get_extra_info("peername")[0])
        await obedient()(peer)

    async with serving(script) as heard:
        connection = await SmtpConnector(SHORT).connect(endpoint(heard, source_address="127.0.0.9"))
        assert connection.session.source_address == "127.0.0.9"
        await connection.close()
    assert seen == ["127.0.0.9"]


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "not an address"])
async def test_lab_mode_refuses_every_address_outside_loopback(address: str) -> None:
    connector = SmtpConnector(SHORT, confine_to_loopback=True)
    with pytest.raises(ConnectFailed, match="lab mode"):
        await connector.connect(endpoint(Heard(port=25), address=address))


# ── TLS ───────────────────────────────────────────────────────────────────────────────────────


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
    async with session(tls_server(server_tls), Timeouts(), tls) as (connection, heard):
        assert connection.session.tls_version.startswith("TLSv1.")
        assert connection.session.tls_cipher
        assert await transact(connection, message()) == [(250, "dot", Scope.MESSAGE)]
    assert heard.contents == [BODY]
    assert heard.tls == [connection.session.tls_version]


async def test_a_large_message_goes_under_tls(server_tls: ssl.SSLContext) -> None:
    content = b"Subject: x\r\n\r\n" + (b"y" * 76 + b"\r\n") * 27_000
    async with session(tls_server(server_tls), Timeouts()) as (connection, heard):
        assert await transact(connection, message(content=content)) == [(250, "dot", Scope.MESSAGE)]
    assert heard.contents == [content]


async def test_what_is_injected_in_clear_behind_starttls_counts_for_nothing(
    server_tls: ssl.SSLContext,
) -> None:
    injected = b"250-evil.test\r\n250 AUTH\r\n421 4.0.0 closing\r\n"
    script = tls_server(server_tls, injected=injected)
    async with session(script, Timeouts()) as (connection, heard):
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
        with pytest.raises(TlsFailed) as caught:
            await SmtpConnector(SHORT).connect(endpoint(heard))
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
            await SmtpConnector(SHORT).connect(endpoint(heard, TlsMode.REQUIRED))
    async with serving(obedient()) as heard:
        with pytest.raises(TlsFailed, match="not offered"):
            await SmtpConnector(SHORT).connect(endpoint(heard, TlsMode.REQUIRED))


async def test_tls_is_not_asked_for_where_the_path_says_none() -> None:
    script = obedient(extensions=("STARTTLS", "PIPELINING"))
    async with session(script, tls=TlsMode.NONE) as (connection, heard):
        assert await transact(connection, message()) == [(250, "dot", Scope.MESSAGE)]
    assert "STARTTLS" not in heard.lines


# ── manners ───────────────────────────────────────────────────────────────────────────────────


async def test_closing_says_quit_and_does_not_wait_for_ever() -> None:
    async with session(obedient(), Timeouts()) as (connection, heard):
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
        await asyncio.wait_for(left.wait(), 5)


async def test_a_cancelled_wait_for_replies_does_not_disturb_the_session() -> None:
    async with session(obedient()) as (connection, heard):
        transaction = connection.begin(message(), before_dot=yes)
        waiting = asyncio.ensure_future(transaction.replies)
        waiting.cancel()
        await transaction.content_sent
        assert await transact(connection, message()) == [(250, "dot", Scope.MESSAGE)]
    assert len(heard.contents) == 2
