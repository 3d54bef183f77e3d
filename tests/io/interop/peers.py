"""Real mail servers as one: where they listen, and what has arrived in their mailboxes.

Gives    Peer, with arrivals() and arrived(); taking_peer() for aiosmtpd; letters(), the bodies that
         try a server
Takes    a running server of tests.support.services
"""

from __future__ import annotations

import asyncio
import contextlib
import smtplib
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiosmtpd import __version__ as aiosmtpd_version
from aiosmtpd.controller import Controller

from mailcore.ports import Connection, WireMessage
from tests.support.fleet import eventually
from tests.support.services.base import LOOPBACK, free_port
from tests.support.smtp_session import codes, yes

# Every server takes mail for anybody at the one, and knows no such user at the other.
DOMAIN = "interop.test"
NOBODY = "nobody@mailbox.test"
# What the servers put on top of a message; the last of these two names its recipient.
_ADDED = (b"return-path:", b"x-original-to:", b"received:")
_NAMED = (b"delivered-to:", b"envelope-to:")


@dataclass(frozen=True)
class Arrival:
    """One message in a mailbox, without what the server put on top of it."""

    recipient: str
    content: bytes


@dataclass(frozen=True)
class Peer:
    """A server."""

    name: str
    port: int
    log: Callable[[], str]
    queue_size: Callable[[], int]
    look: Callable[[], list[Arrival]]
    has_smtputf8: bool = True
    tls_fault: str = ""

    def arrivals(self, recipient: str) -> list[bytes]:
        """Return what is in the mailbox of a recipient."""
        return [one.content for one in self.look() if one.recipient == recipient]

    def arrived(self, *recipients: str, count: int) -> list[bytes]:
        """Wait until so many messages are there for each and none is on its way; return the
        contents of the first, in the order of their octets."""

        def is_done() -> bool:
            return self.queue_size() == 0 and all(
                len(self.arrivals(one)) >= count for one in recipients
            )

        eventually(is_done, within_s=30, what=self.log)
        return sorted(self.arrivals(recipients[0]))


def tls_fault_of(port: int) -> str:
    """Ask, with the standard library, why a server cannot do TLS; "" if it can."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with smtplib.SMTP(LOOPBACK, port, timeout=10) as client:
        try:
            client.starttls(context=context)
        except ssl.SSLError as exc:
            client.close()
            return str(exc)
    return ""


def maildir_of(path: Path) -> Callable[[], list[Arrival]]:
    """Return what reads a mailbox."""

    def look() -> list[Arrival]:
        if not (path / "new").is_dir():
            return []
        return [_stripped(one.read_bytes()) for one in (path / "new").iterdir()]

    return look


def _stripped(stored: bytes) -> Arrival:
    """Undo what a server does on storing: lines end in LF, and fields stand on top."""
    lines = stored.split(b"\n")
    recipient, at, is_added = "", 0, True
    while is_added:
        line = lines[at].lower()
        if line.startswith(_NAMED):
            recipient = lines[at].partition(b":")[2].strip().decode()
        is_added = line.startswith((*_ADDED, *_NAMED, b" ", b"\t"))
        at += is_added
    return Arrival(recipient, b"\r\n".join(lines[at:]))


# ── aiosmtpd ──────────────────────────────────────────────────────────────────────────────────


@dataclass
class _Box:
    """aiosmtpd's mailbox."""

    arrivals: list[Arrival] = field(default_factory=list)

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        if address == NOBODY:
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.arrivals += [Arrival(to, bytes(envelope.content)) for to in envelope.rcpt_tos]
        return "250 2.0.0 taken"


@contextlib.contextmanager
def taking_peer(context: ssl.SSLContext) -> Iterator[Peer]:
    """Run aiosmtpd, with STARTTLS, until the block ends."""
    box = _Box()
    controller = Controller(
        box, hostname=LOOPBACK, port=free_port(), tls_context=context, enable_SMTPUTF8=True
    )
    controller.start()
    try:
        yield Peer(
            f"aiosmtpd {aiosmtpd_version}",
            controller.port,
            log=lambda: f"{len(box.arrivals)} came",
            queue_size=lambda: 0,
            look=lambda: list(box.arrivals),
        )
    finally:
        controller.stop()


# ── what is sent ──────────────────────────────────────────────────────────────────────────────

HEADER = (
    b"From: News <news@shop.test>\r\nTo: you@interop.test\r\nSubject: %s,\r\n\tfolded\r\n"
    b"Date: Sun, 29 Nov 2026 10:00:00 +0000\r\nMessage-ID: <%s@shop.test>\r\n"
    b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: 8bit\r\n\r\n"
)
_BODIES = {
    "dots": b".\r\n..\r\n.x\r\n\r\n.\r\n\r\n...\r\n.\r\n",
    "long": (b"x" * 998 + b"\r\n") * 3 + b"." * 998 + b"\r\n",
    "one": b"x\r\n",
    "empty": b"",
    "blank": b"\r\n\r\n\r\n",
    "mbox": b"From here to there\r\n>From there to here\r\nQUIT\r\n",
    "odd": b" \t\r\n\x01\x0b\x0c\x1b\x7f trailing \t \r\n=\r\n",
    "large": (b"." + b"0123456789" * 7 + b"\r\n") * 42_000,
}
_BODIES_8BIT = {
    "utf8": "Grüße, Ελλάδα, 漢字\r\n.ü\r\n".encode(),
    "high": bytes(range(0x80, 0x100)) + b"\r\n",
}


def letters(reverse_path: str, *forward_paths: str) -> list[WireMessage]:
    """Return messages of every shape to these recipients."""
    plain = [(name, body, False) for name, body in _BODIES.items()]
    wide = [(name, body, True) for name, body in _BODIES_8BIT.items()]
    return [
        WireMessage(
            reverse_path,
            forward_paths,
            HEADER % (name.encode(), name.encode()) + body,
            needs_8bit=needs_8bit,
        )
        for name, body, needs_8bit in plain + wide
    ]


async def send_all(
    connection: Connection, messages: list[WireMessage]
) -> list[list[tuple[int, str]]]:
    """Send messages down one session, each behind the last; return the code and stage that each
    recipient got."""
    chain = []
    for message in messages:
        chain.append(connection.begin(message, before_dot=yes))
        await asyncio.wait_for(asyncio.shield(chain[-1].content_sent), 30)
    return [[one[:2] for one in codes(await asyncio.wait_for(each.replies, 30))] for each in chain]
