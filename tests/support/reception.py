"""A client of the server's dialogue: says lines, hears replies, answers the steps.

Gives    Session, opened, Keeper (a Doorkeeper that says what it was told), MESSAGE
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from mailcore.address import ForwardPath
from mailcore.reception import (
    Admission,
    Close,
    Gauge,
    Identity,
    Letter,
    Limits,
    Reception,
    Say,
    StartTls,
    Step,
    Take,
    Verify,
)
from mailcore.reply import SmtpReply

OWN = Identity(7)
TOKEN = Identity(8, "hash")
TAKEN = SmtpReply.local(250, "2.0.0", "queued as 1")
POSTMASTER = ForwardPath("admin", "shop.test")
MESSAGE = b"From: a@shop.test\r\n\r\nhello\r\n"
TO_DATA = b"MAIL FROM:<a@shop.test>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"


@dataclass
class Keeper:
    """Admits everybody, unless told otherwise."""

    admission: Admission = field(default_factory=Admission)
    asked: list[Identity] = field(default_factory=list)

    def admit(self, identity: Identity) -> Admission:
        self.asked.append(identity)
        return self.admission


class Session:
    """A session whose letters are taken at once, or when told."""

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        keeper: Keeper | None = None,
        gauge: Gauge | None = None,
        own: Identity | None = OWN,
        reply: SmtpReply | None = TAKEN,
        identify: Callable[[str, str], Identity | None] = lambda user, password: TOKEN,
        **options: Any,
    ) -> None:
        self.letters: list[Letter] = []
        self.heard = b""
        self.is_closed = False
        self.logins: list[tuple[str, str]] = []
        self.gauge = gauge or Gauge(2**30)
        self._reply = reply
        self._identify = identify
        self.dialogue = Reception(
            host="mx.shop.test",
            limits=limits or Limits(),
            doorkeeper=keeper or Keeper(),
            gauge=self.gauge,
            postmaster=POSTMASTER,
            own_identity=own,
            **options,
        )
        self.do(self.dialogue.greet())

    def do(self, steps: Iterable[Step]) -> None:
        for step in steps:
            match step:
                case Say(octets):
                    self.heard += octets
                case Take(letter):
                    self.letters.append(letter)
                    if self._reply is not None:
                        self.do(self.dialogue.decided(self._reply))
                case Verify(user, password):
                    self.logins.append((user, password))
                    found = self._identify(user, password)
                    self.do(
                        self.dialogue.verified(found)
                        if found is not None
                        else self.dialogue.not_verified()
                    )
                case StartTls():
                    pass
                case Close():
                    self.is_closed = True

    def say(self, octets: bytes, *, cuts: Iterable[int] = ()) -> str:
        """Send octets, in pieces if asked; return what was answered to them."""
        before = len(self.heard)
        start = 0
        for cut in [*sorted(cuts), len(octets)]:
            if cut > start:
                self.do(self.dialogue.receive(octets[start:cut]))
                start = cut
        return self.heard[before:].decode("ascii")

    def codes(self, octets: bytes) -> list[str]:
        """Send octets; return code and enhanced status of each reply."""
        lines = self.say(octets).splitlines()
        return [" ".join(line.split(" ")[:2]) for line in lines if line[3:4] == " "]


def opened(**options: Any) -> Session:
    """Return a session that has said EHLO."""
    session = Session(**options)
    session.say(b"EHLO client.test\r\n")
    return session
