"""What crosses between a dialogue and the line that carries it.

Gives    WireMessage (what a transaction carries), RecipientReply (what it came to), Transaction
         (what is known of it so far); Extensions; the steps Write, StartTls, Ready, SendContent,
         Done, Failed
Follows  RFC 5321 §4.5.2 (dots), RFC 1869 §4.3 (EHLO answer), RFC 1870 (SIZE)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mailcore.outcome import Scope
from mailcore.reply import SmtpReply
from mailcore.transaction.replies import text_of


@dataclass(frozen=True, slots=True)
class WireMessage:
    """What one transaction carries. `content` is CRLF bytes, not yet dot-stuffed."""

    reverse_path: str
    forward_paths: tuple[str, ...]
    content: bytes
    needs_8bit: bool = False
    needs_smtputf8: bool = False


@dataclass(frozen=True, slots=True)
class RecipientReply:
    """The reply that decided over one forward-path, and the step it answered."""

    reply: SmtpReply
    stage: str
    scope: Scope


def dot_stuffed(content: bytes) -> bytes:
    """Return content with a dot doubled where it begins a line, and a line end at its end."""
    if b"\n." in content:
        content = content.replace(b"\n.", b"\n..")
    if content.startswith(b"."):
        content = b"." + content
    return content if not content or content.endswith(b"\r\n") else content + b"\r\n"


@dataclass(frozen=True, slots=True)
class Extensions:
    """What a server offered in its answer to EHLO. `size` None: not offered; 0: no limit."""

    pipelining: bool = False
    eight_bit: bool = False
    smtputf8: bool = False
    starttls: bool = False
    size: int | None = None

    @classmethod
    def parse(cls, lines: tuple[bytes, ...]) -> Extensions:
        """Read the lines of an EHLO answer; the first one is the server's name."""
        offered: dict[str, str] = {}
        for line in lines[1:]:
            keyword, _, value = text_of(line).strip().partition(" ")
            offered[keyword.upper()] = value.strip()
        size = offered.get("SIZE")
        return cls(
            pipelining="PIPELINING" in offered,
            eight_bit="8BITMIME" in offered,
            smtputf8="SMTPUTF8" in offered,
            starttls="STARTTLS" in offered,
            # A value that is no number limits nothing that we could check.
            size=None if size is None else int(size) if size.isdecimal() and size.isascii() else 0,
        )


class Stage(Enum):
    """What a reply answers; the value is the stage an outcome is told with."""

    BANNER = "banner"
    EHLO = "ehlo"
    HELO = "helo"
    STARTTLS = "starttls"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    DOT = "dot"
    LONE_DOT = "lone dot"
    RSET = "rset"

    # A member equals itself alone; Enum hashes the name, in Python, on every look-up.
    __hash__ = object.__hash__


class FaultKind(Enum):
    """Why a session is over."""

    REFUSED = "refused"
    TLS = "tls"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Write:
    """Send these bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class StartTls:
    """Begin the TLS handshake, then call `tls_established`."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The session takes transactions."""


@dataclass(frozen=True, slots=True)
class SendContent:
    """Send the content of this transaction and its dot, then call `dot_sent`."""

    transaction: Transaction


@dataclass(frozen=True, slots=True)
class Done:
    """Every recipient of this transaction has its reply."""

    transaction: Transaction


@dataclass(frozen=True, slots=True)
class Failed:
    """The session is over; close the line and call `break_off` for who is left without a reply."""

    kind: FaultKind
    reply: SmtpReply
    stage: str
    scope: Scope


Step = Write | StartTls | Ready | SendContent | Done | Failed


class Transaction:
    """One transaction and what is known of it so far; `verdicts` has None for the undecided."""

    __slots__ = ("is_dot_sent", "is_mail_accepted", "message", "stage", "verdicts")

    def __init__(self, message: WireMessage) -> None:
        self.message = message
        self.verdicts: list[RecipientReply | None] = [None] * len(message.forward_paths)
        self.stage = Stage.MAIL
        self.is_mail_accepted = False
        self.is_dot_sent = False

    @property
    def is_decided(self) -> bool:
        """Whether every recipient has its reply."""
        return None not in self.verdicts

    def decide(self, reply: SmtpReply, stage: Stage, scope: Scope) -> None:
        """Give this reply to all who have none yet."""
        verdict = RecipientReply(reply, stage.value, scope)
        self.verdicts = [verdict if known is None else known for known in self.verdicts]
