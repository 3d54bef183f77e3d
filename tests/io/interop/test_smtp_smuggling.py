"""Nothing that looks like an end of data is one: neither for our listener, nor for the servers our
client sends to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

import pytest

from mailcore.errors import SubmissionRefused
from mailcore.policy.words import TlsMode
from mailcore.ports import WireMessage
from mailcore.render import repair
from mailio.smtp import SmtpConnector
from tests.io.interop.conftest import Installation
from tests.io.interop.peers import DOMAIN, HEADER, Peer, send_all
from tests.support.smtp_peer import Heard
from tests.support.smtp_session import endpoint
from tests.support.smtpd import Wire
from tests.support.smuggling import ENDS, INERT

TRUE_END = b"\r\n.\r\n"
EVIL = b"From: evil@shop.test\r\nSubject: smuggled\r\n\r\nsmuggled\r\n"


def commands(victim: str) -> bytes:
    """Return a message that is to be smuggled in: a chunk may follow its command unasked."""
    envelope = f"MAIL FROM:<evil@shop.test>\r\nRCPT TO:<{victim}>\r\n".encode()
    return envelope + b"BDAT %d LAST\r\n" % len(EVIL) + EVIL


# ── in ────────────────────────────────────────────────────────────────────────────────────────


class Attack:
    """A client that says what it is told, in as many packets as it is told."""

    def __init__(self, installation: Installation) -> None:
        self._server = installation.own
        self._wire = Wire(self._server.port)
        self._wire.reply()
        self._wire.ask(b"EHLO x\r\n")

    def begin(self, recipient: str) -> None:
        said = f"MAIL FROM:<news@shop.test>\r\nRCPT TO:<{recipient}>\r\n".encode()
        assert [one[:3] for one in self._wire.ask(said, replies=2)] == ["250", "250"]

    def say(self, *packets: bytes) -> str:
        for packet in packets:
            self._wire.send(packet)
            self._server.call(asyncio.sleep(0))  # The server has looked at it.
        return self._wire.reply()

    def reply(self) -> str:
        return self._wire.reply()

    def __enter__(self) -> Attack:
        return self

    def __exit__(self, *_: object) -> None:
        self._wire.__exit__()


def cuts(before: bytes, end: bytes, after: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Cut a message in two at each octet of its end."""
    whole = before + end + after
    for at in range(len(before), len(before) + len(end) + 1):
        yield whole[:at], whole[at:]


def test_the_attack_works_where_the_end_is_a_true_one(installation: Installation) -> None:
    with Attack(installation) as attack:
        attack.begin("control@example.com")
        assert attack.say(b"DATA\r\n")[:3] == "354"
        content = HEADER % (b"x", b"x") + b"hello" + TRUE_END
        assert attack.say(content + commands("control-victim@example.com"))[:3] == "250"
        assert [attack.reply()[:3] for _ in range(3)] == ["250"] * 3
    assert installation.count("control@example.com") == 1
    assert installation.count("control-victim@example.com") == 1


@pytest.mark.parametrize("end", ENDS)
def test_no_wrong_end_splits_what_our_listener_is_sent(
    installation: Installation, end: bytes
) -> None:
    before = HEADER % (b"x", b"x") + b"hello"
    for packets in cuts(before, end, commands("victim@example.com")):
        with Attack(installation) as attack:
            attack.begin("split@example.com")
            assert attack.say(b"DATA\r\n")[:3] == "354"
            assert attack.say(*packets).startswith("554 5.6.0 ")
            assert attack.reply() == ""
    with Attack(installation) as attack:
        whole = before + end + commands("victim@example.com") + b"\r\n"
        for first, rest in cuts(before, end[:3], whole[len(before) + len(end[:3]) :]):
            attack.begin("split@example.com")
            said = b"BDAT %d\r\n%sBDAT %d LAST\r\n%s" % (len(first), first, len(rest), rest)
            answers = [attack.say(said), attack.reply()]
            assert "554 5.6.0" in {one[:9] for one in answers}
    assert installation.count("victim@example.com") == 0
    assert installation.count("split@example.com") == 0


@pytest.mark.parametrize("end", INERT)
def test_what_is_no_end_is_content_of_one_message(installation: Installation, end: bytes) -> None:
    to = f"inert-{INERT.index(end)}@example.com"
    before = HEADER % (b"x", b"x") + b"hello"
    after = commands("victim@example.com") + b".\r\n"
    packets = list(cuts(before, end, after))
    with Attack(installation) as attack:
        for each in packets:
            attack.begin(to)
            assert attack.say(b"DATA\r\n")[:3] == "354"
            assert attack.say(*each)[:3] == "250"
    assert installation.count("victim@example.com") == 0
    taken = installation.taken(to)
    assert len(taken) == len(packets)
    assert all(content.endswith(EVIL) for content in taken.values())


def test_a_true_end_within_a_chunk_is_content(installation: Installation) -> None:
    to = "chunk@example.com"
    before = HEADER % (b"x", b"x") + b"hello"
    packets = list(cuts(before, TRUE_END, commands("victim@example.com")))
    with Attack(installation) as attack:
        for first, rest in packets:
            attack.begin(to)
            said = b"BDAT %d\r\n%sBDAT %d LAST\r\n%s" % (len(first), first, len(rest), rest)
            assert [attack.say(said)[:3], attack.reply()[:3]] == ["250", "250"]
    assert installation.count("victim@example.com") == 0
    whole = before + TRUE_END + commands("victim@example.com")
    assert [c.endswith(whole) for c in installation.taken(to).values()] == [True] * len(packets)


# ── out ───────────────────────────────────────────────────────────────────────────────────────

OUT = [*ENDS, *INERT, TRUE_END, b"\r\n.\r\n.\r\n", b"\r\n..\r\n.\r\n"]


def repaired(raw: bytes) -> bytes:
    return repair(raw, message_id=UUID(int=1), date=datetime(2026, 11, 29, tzinfo=UTC)).content


@pytest.mark.parametrize("peer", ["postfix", "exim", "opensmtpd"], indirect=True)
def test_each_server_is_split_by_a_true_end(peer: Peer) -> None:
    """What the next test looks for would be seen, if it came about."""
    to, victim = f"control@{DOMAIN}", f"control-victim@{DOMAIN}"
    with Wire(peer.port) as wire:
        wire.reply()
        wire.ask(b"EHLO x.test\r\n")
        for said in (b"MAIL FROM:<news@shop.test>\r\n", f"RCPT TO:<{to}>\r\n".encode()):
            assert wire.ask(said)[0][:3] == "250"
        assert wire.ask(b"DATA\r\n")[0][:3] == "354"
        content = HEADER % (b"x", b"x") + b"hello" + TRUE_END
        answers = wire.ask(content + commands(victim), replies=1)
        if peer.name.startswith("OpenSMTPD"):
            # It takes nothing from a client that does not wait, the first message included.
            assert answers == ["500 5.5.1 Invalid command: Pipelining not supported\r\n"]
            return
        answers += [wire.reply() for _ in range(3)]
    assert [one[:3] for one in answers] == ["250"] * 4
    peer.arrived(to, victim, count=1)


@pytest.mark.parametrize(
    ("peer", "allows_chunking"),
    [("postfix", False), ("postfix", True), ("exim", False), ("opensmtpd", False)],
    indirect=["peer"],
)
@pytest.mark.parametrize("is_repaired", [True, False])
async def test_nothing_our_client_sends_splits_a_message(
    peer: Peer, *, allows_chunking: bool, is_repaired: bool
) -> None:
    """Repaired is what every way in makes of content; the other is what must not come so far."""
    mark = f"{is_repaired}-{allows_chunking}".lower()
    to, victim = f"out-{mark}@{DOMAIN}", f"victim-{mark}@{DOMAIN}"
    before, after = HEADER % (b"out", b"out") + b"hello", commands(victim) + b"bye\r\n"
    contents = [before + end + after for end in (OUT if is_repaired else ENDS)]
    if is_repaired:
        contents = sorted({repaired(each) for each in contents if b"\0" not in each})
    messages = [WireMessage("news@shop.test", (to,), each, needs_8bit=True) for each in contents]
    where = endpoint(Heard(port=peer.port), TlsMode.NONE, allows_chunking=allows_chunking)
    connection = await SmtpConnector(confine_to_loopback=True).connect(where)
    answers = await send_all(connection, messages)
    await connection.close()
    # What holds a NUL we send to nobody.
    assert answers == [[(554, "mail") if b"\0" in one else (250, "dot")] for one in contents]
    taken = sorted(one for one in contents if b"\0" not in one)
    arrived = peer.arrived(to, count=len(taken))
    assert len(arrived) == len(taken)
    assert all(content.endswith(b"bye\r\n") for content in arrived)
    if is_repaired:
        assert arrived == taken
    assert peer.arrivals(victim) == []
    assert victim not in peer.log()


def test_content_with_a_nul_is_sent_to_nobody() -> None:
    for end in ENDS:
        if b"\0" in end:
            with pytest.raises(SubmissionRefused):
                repaired(HEADER % (b"x", b"x") + end)
