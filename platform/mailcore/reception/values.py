"""What the server's dialogue is told, and what it asks for.

Gives    Limits, Identity, Admission, Doorkeeper, Gauge (told); Letter, LetterRecipient (what a
         client handed over); Say, StartTls, Verify, Take, Close (steps);
         Waits
Follows  RFC 5321 §4.5.3.1 (limits), RFC 3848 and RFC 6531 §4.3 (names of the protocol)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from mailcore.address import ForwardPath, ReversePath
from mailcore.reply import SmtpReply


@dataclass(frozen=True, slots=True)
class Limits:
    """What one session may do. A command of RFC 5321 fits in 512 octets; extensions add to it."""

    message_bytes: int = 25 * 2**20
    recipients: int = 1000
    command_bytes: int = 2048
    auth_bytes: int = 12_288
    errors: int = 10
    idle_commands: int = 100
    auth_tries: int = 3
    received_fields: int = 100
    offers_dsn: bool = True


@dataclass(frozen=True, slots=True)
class Identity:
    """For whom a session sends. `credential` names what it logged in with, "" for an own host."""

    account_id: int
    credential: str = ""


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a transaction may begin now, and how large it may get; 0 is no limit of its own."""

    refusal: SmtpReply | None = None
    message_bytes: int = 0
    recipients: int = 0


class Doorkeeper(Protocol):
    """Says at MAIL what an account may do. Never blocks."""

    def admit(self, identity: Identity) -> Admission:
        """Return whether it may send a message now."""
        ...


class Gauge:
    """Octets of content that all sessions of a process hold in memory, and how many they may.

    Those of one account may hold `share`, so that nobody shuts the others out; 0 is all.
    """

    __slots__ = ("_of", "held", "limit", "share")

    def __init__(self, limit: int, share: int = 0) -> None:
        self.limit = limit
        self.share = share or limit
        self.held = 0
        self._of: dict[int, int] = {}

    def is_full_for(self, account_id: int) -> bool:
        """Whether the account should begin no message."""
        return self.held >= self.limit or self._of.get(account_id, 0) >= self.share

    def take(self, count: int, account_id: int) -> bool:
        """Hold so many more, if there is room."""
        own = self._of.get(account_id, 0) + count
        if self.held + count > self.limit or own > self.share:
            return False
        self.held += count
        self._of[account_id] = own
        return True

    def give_back(self, count: int, account_id: int) -> None:
        """Hold so many less."""
        self.held -= count
        left = self._of.pop(account_id, 0) - count
        if left > 0:
            self._of[account_id] = left


# ── what was handed over ──────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class LetterRecipient:
    """A forward-path with its RFC 3461 parameters as given; an ORCPT in UTF-8 is in ASCII here."""

    address: ForwardPath
    notify: str = ""
    orcpt: str = ""


@dataclass(frozen=True, slots=True)
class Letter:
    """A message at its end of data: envelope, and the octets the client sent, dots unstuffed."""

    identity: Identity
    reverse_path: ReversePath
    recipients: tuple[LetterRecipient, ...]
    content: bytes = field(repr=False)
    ehlo: str = ""
    protocol: str = "ESMTP"
    needs_smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    requires_tls: bool = False


def protocol_name(*, is_extended: bool, is_utf8: bool, is_tls: bool, is_authenticated: bool) -> str:
    """Return the word behind `with` in a Received field."""
    if not is_extended:
        return "SMTP"
    word = "UTF8SMTP" if is_utf8 else "ESMTP"
    return word + ("S" if is_tls else "") + ("A" if is_authenticated else "")


# ── steps ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Say:
    """Write these octets."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class StartTls:
    """Begin the TLS handshake, then call `secured`."""


@dataclass(frozen=True, slots=True)
class Verify:
    """Find out who this is, then call `verified` or `not_verified`."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Take:
    """Make this letter durable, then call `decided`."""

    letter: Letter


@dataclass(frozen=True, slots=True)
class Close:
    """Close once all is written. A peer that may still be talking is to read why."""

    is_peer_talking: bool = True


Step = Say | StartTls | Verify | Take | Close


class Waits(Enum):
    """What must be told before the session goes on."""

    NOTHING = "nothing"
    TLS = "tls"
    VERDICT = "verdict"
    LETTER = "letter"
