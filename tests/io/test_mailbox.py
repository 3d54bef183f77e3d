"""Mailboxes over POP3: a server that keeps to the book, and one that does not."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import pytest

from mailcore.policy.model import Mailbox
from mailcore.policy.words import MailboxProtocol, MailboxTls
from mailcore.ports import MailboxError, MailboxItem, MailboxReader
from mailio import pop3
from mailio.mailbox import Pop3Reader
from mailio.pop3 import Pop3Session
from tests.support.pop3_peer import Pop3Peer
from tests.support.services import Dovecot

BOX = Mailbox(1, "bounces", "127.0.0.1", 0, "box", "mailbox:1", tls=MailboxTls.NONE)
READER = Pop3Reader(confine_to_loopback=True, connect_s=5.0, answer_s=5.0)
SECRET = "secret"
MESSAGE = b"Subject: one\r\n\r\nhello\r\n"


@pytest.fixture
def peer() -> Iterator[Pop3Peer]:
    peer = Pop3Peer()
    yield peer
    peer.stop()


class Connect(Protocol):
    """Opens a session that the test's end closes."""

    def __call__(self, reader: Pop3Reader = READER, *, secret: str = SECRET) -> Pop3Session: ...


@pytest.fixture
def connect(peer: Pop3Peer) -> Iterator[Connect]:
    sessions: list[Pop3Session] = []

    def opened(reader: Pop3Reader = READER, *, secret: str = SECRET) -> Pop3Session:
        sessions.append(reader.open(replace(BOX, port=peer.port), secret.encode()))
        return sessions[-1]

    yield opened
    for session in sessions:
        session.abort()


def fetched(session: Pop3Session, *numbers: int, most_bytes: int = 10_000) -> list[bytes | None]:
    return list(session.fetch(numbers, most_bytes=most_bytes))


# --- by the book ----------------------------------------------------------------------------------


def test_it_is_the_reader_the_poller_asks_for() -> None:
    port: MailboxReader = READER
    assert port is READER


def test_a_mailbox_is_listed_read_and_emptied(peer: Pop3Peer, connect: Connect) -> None:
    peer.messages |= {"a1": MESSAGE, "b2": b"Subject: two\r\n\r\n.\r\n..dots\r\n"}
    session = connect()
    assert list(session.listing()) == [MailboxItem(1, "a1"), MailboxItem(2, "b2")]
    assert fetched(session, 2, 1) == [b"Subject: two\r\n\r\n.\r\n..dots\r\n", MESSAGE]
    session.delete([1, 2])
    session.commit()
    assert peer.messages == {}


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_an_answer_may_come_in_pieces_of_any_size(
    peer: Pop3Peer, connect: Connect, chunk: int
) -> None:
    odd = [b"", b".\r\n", b"\r\n", b"a\r\n.\r\n\r\n", b"Subject: x\r\n\r\n...\r\n", MESSAGE]
    peer.messages |= {f"m{n}": content for n, content in enumerate(odd)}
    peer.chunk = chunk
    session = connect()
    assert len(list(session.listing())) == len(odd)
    assert fetched(session, *range(1, len(odd) + 1)) == odd
    session.commit()


def test_what_is_not_committed_is_not_deleted(peer: Pop3Peer, connect: Connect) -> None:
    peer.messages["a"] = MESSAGE
    session = connect()
    list(session.listing())
    session.delete([1])
    session.abort()
    session.abort()
    assert list(connect().listing()) == [MailboxItem(1, "a")]


def test_of_a_large_message_the_beginning_is_asked_for(peer: Pop3Peer, connect: Connect) -> None:
    large = b"Subject: large\r\n\r\n" + b"x" * 70 + b"\r\n"
    peer.messages["a"] = large + (b"y" * 70 + b"\r\n") * 5000
    session = connect()
    list(session.listing())
    (head,) = fetched(session, 1, most_bytes=1000)
    assert head == peer.messages["a"][:1000]
    assert "TOP 1 15" in peer.heard
    session.commit()


def test_a_large_message_of_a_server_without_top_is_cut_while_it_comes(
    peer: Pop3Peer, connect: Connect
) -> None:
    peer.capabilities = ("USER",)
    peer.messages |= {"a": MESSAGE * 20_000, "b": MESSAGE}
    session = connect()
    list(session.listing())
    assert fetched(session, 1, 2, most_bytes=1000) == [(MESSAGE * 50)[:1000], MESSAGE]
    assert "TOP" not in " ".join(peer.heard)
    session.commit()


def test_a_line_of_any_length_in_a_message_is_read(peer: Pop3Peer, connect: Connect) -> None:
    long = b"Subject: x\r\n\r\n" + b"z" * 100_000 + b"\r\n"
    peer.messages["a"] = long
    session = connect()
    list(session.listing())
    assert fetched(session, 1, most_bytes=200_000) == [long]


def test_many_messages_are_asked_for_in_few_round_trips(peer: Pop3Peer, connect: Connect) -> None:
    peer.messages |= {f"m{n}": b"%d\r\n" % n for n in range(250)}
    session = connect()
    numbers = [item.number for item in session.listing()]
    assert fetched(session, *numbers) == list(peer.messages.values())
    session.delete(numbers)
    session.commit()
    assert peer.messages == {}


def test_a_server_that_knows_nothing_new_is_read_one_by_one(
    peer: Pop3Peer, connect: Connect
) -> None:
    peer.answers["CAPA"] = b"-ERR unknown\r\n"
    peer.messages |= {"a": MESSAGE, "b": MESSAGE}
    session = connect()
    list(session.listing())
    assert fetched(session, 1, 2) == [MESSAGE, MESSAGE]
    assert [each for each in peer.heard if each[:4] in ("LIST", "RETR")] == [
        "LIST 1",
        "RETR 1",
        "LIST 2",
        "RETR 2",
    ]


# --- and not --------------------------------------------------------------------------------------


def test_a_message_that_is_gone_meanwhile_is_none_and_the_others_come(
    peer: Pop3Peer, connect: Connect
) -> None:
    peer.messages |= {"a": MESSAGE, "b": MESSAGE, "c": MESSAGE}
    session = connect()
    list(session.listing())
    del peer.messages["b"]
    assert fetched(session, 1, 2, 3) == [MESSAGE, None, MESSAGE]


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"USER": b"-ERR [SYS/TEMP] later\r\n"}, r"refused the login: -ERR \[SYS/TEMP\] later"),
        ({"PASS": b"-ERR [AUTH] no\r\n"}, r"refused the login: -ERR \[AUTH\] no"),
        ({"PASS": None}, "closed the connection"),
        ({"UIDL": b"-ERR not here\r\n"}, "refused UIDL: -ERR not here"),
        ({"UIDL": b"+OK\r\n1\r\n.\r\n"}, "a UIDL that is none"),
        ({"UIDL": b"+OK\r\nx a\r\n.\r\n"}, "a UIDL that is none"),
        ({"UIDL": b"+OK\r\n1 " + b"u" * 300 + b"\r\n.\r\n"}, "a UIDL that is none"),
        ({"UIDL": b"+OK\r\n" + b"u" * 20_000}, "a line that does not end"),
        ({"UIDL": b"\r\n"}, "refused UIDL: an empty answer"),
    ],
)
def test_what_a_server_refuses_or_garbles_is_said_in_a_line(
    peer: Pop3Peer, connect: Connect, answers: dict[str, bytes | None], reason: str
) -> None:
    peer.answers = answers
    with pytest.raises(MailboxError, match=reason) as error:
        list(connect().listing())
    assert "secret" not in str(error.value)


def test_a_greeting_that_refuses_is_told(peer: Pop3Peer, connect: Connect) -> None:
    peer.greeting = b"-ERR too many connections\r\n"
    with pytest.raises(MailboxError, match="refused the greeting: -ERR too many connections"):
        connect()


def test_a_silent_server_is_left_after_a_time(peer: Pop3Peer, connect: Connect) -> None:
    peer.greeting = b""
    with pytest.raises(MailboxError, match=r"no answer in 0\.05 s"):
        connect(Pop3Reader(confine_to_loopback=True, answer_s=0.05))


def test_a_message_without_end_is_left(
    peer: Pop3Peer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pop3, "MAX_DISCARDED", 100_000)
    peer.messages["a"] = MESSAGE
    peer.answers["RETR"] = b"+OK\r\n" + b"x" * 300_000
    session = connect()
    list(session.listing())
    with pytest.raises(MailboxError, match="a message that does not end"):
        fetched(session, 1)


def test_nobody_listening_is_told(peer: Pop3Peer, connect: Connect) -> None:
    peer.stop()
    with pytest.raises(MailboxError, match=r"127\.0\.0\.1:\d+: Connection refused"):
        connect()


def test_tls_at_a_port_that_speaks_in_clear_is_told_in_words(peer: Pop3Peer) -> None:
    box = replace(BOX, host="localhost", port=peer.port, tls=MailboxTls.TLS)
    with pytest.raises(MailboxError, match=r"localhost: TLS: the server does not speak TLS at"):
        READER.open(box, b"secret")


@pytest.mark.parametrize("secret", ["a\r\nDELE 1", "a\nb", "a\0b"])
def test_a_password_that_would_be_a_command_is_not_sent(
    peer: Pop3Peer, connect: Connect, secret: str
) -> None:
    with pytest.raises(MailboxError, match="has a line end or a NUL"):
        connect(secret=secret)
    assert not any("PASS" in each or "DELE" in each for each in peer.heard)


def test_in_the_lab_no_other_host_is_spoken_to() -> None:
    with pytest.raises(MailboxError, match="only loopback"):
        READER.open(replace(BOX, host="192.0.2.1", port=110), b"secret")


def test_imap_is_refused_in_words() -> None:
    with pytest.raises(MailboxError, match="IMAP mailboxes are not read by this release"):
        READER.open(replace(BOX, protocol=MailboxProtocol.IMAP), b"secret")


def test_a_server_that_speaks_before_tls_is_not_trusted(peer: Pop3Peer) -> None:
    peer.capabilities = ("STLS",)
    peer.answers["STLS"] = b"+OK\r\n+OK injected\r\n"
    with pytest.raises(MailboxError, match="in clear after STLS"):
        READER.open(replace(BOX, port=peer.port, tls=MailboxTls.STARTTLS), b"secret")
    assert not any(each.startswith("PASS") for each in peer.heard)


def test_without_stls_no_password_is_sent(peer: Pop3Peer) -> None:
    with pytest.raises(MailboxError, match="offers no STLS"):
        READER.open(replace(BOX, port=peer.port, tls=MailboxTls.STARTTLS), b"secret")
    assert not any(each.startswith(("USER", "PASS")) for each in peer.heard)


# --- a real server --------------------------------------------------------------------------------


def at(dovecot: Dovecot, tls: MailboxTls, user: str) -> Mailbox:
    port = dovecot.pop3s_port if tls is MailboxTls.TLS else dovecot.pop3_port
    return replace(BOX, host="localhost", port=port, tls=tls, login=user)


@pytest.mark.parametrize("tls", MailboxTls)
def test_dovecot_is_read_in_each_manner_of_tls(dovecot: Dovecot, tls: MailboxTls) -> None:
    user = f"pop-{tls.value}"
    password = dovecot.add_user(user).encode()
    dovecot.deliver(user, *(b"Subject: %d\n\n.dot\n" % n for n in range(3)))
    reader = Pop3Reader(confine_to_loopback=False, tls=dovecot.tls())
    session = reader.open(at(dovecot, tls, user), password)
    items = list(session.listing())
    assert fetched(session, *(item.number for item in items)) == [
        b"Subject: %d\r\n\r\n.dot\r\n" % n for n in range(3)
    ]
    session.delete([items[0].number, items[2].number])
    session.commit()
    again = reader.open(at(dovecot, tls, user), password)
    assert [item.uidl for item in again.listing()] == [items[1].uidl]
    again.commit()


def test_dovecots_certificate_is_checked_outside_the_lab(dovecot: Dovecot) -> None:
    strict = Pop3Reader(confine_to_loopback=False)
    for tls in (MailboxTls.TLS, MailboxTls.STARTTLS):
        with pytest.raises(MailboxError, match="TLS: the certificate is not good"):
            strict.open(at(dovecot, tls, "nobody"), b"x")
    other = Pop3Reader(confine_to_loopback=False, tls=dovecot.tls())
    box = replace(at(dovecot, MailboxTls.TLS, "nobody"), host="127.0.0.2")
    with pytest.raises(MailboxError):
        other.open(box, b"x")


def test_dovecot_refuses_a_wrong_password_in_its_own_words(dovecot: Dovecot) -> None:
    dovecot.add_user("locked")
    with pytest.raises(MailboxError, match=r"refused the login: -ERR .*failed"):
        READER.open(at(dovecot, MailboxTls.TLS, "locked"), b"wrong")


def test_tls_settings_of_the_lab_do_not_reach_outside() -> None:
    assert Pop3Reader(confine_to_loopback=False)._tls.verify_mode is ssl.CERT_REQUIRED
