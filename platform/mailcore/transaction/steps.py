"""What a dialogue asks of the line that carries it.

Gives    the steps Write, WriteSecret, StartTls, Ready, SendContent, Done, Failed; FaultKind
Follows  RFC 5321 §4.1.1.4 (DATA), RFC 3030 (BDAT)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mailcore.outcome import Scope
from mailcore.reply import SmtpReply
from mailcore.transaction.message import Transaction, dot_stuffed, ended


class FaultKind(Enum):
    """Why a session is over."""

    REFUSED = "refused"
    TLS = "tls"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Write:
    """Send these bytes."""

    data: bytes


@dataclass(frozen=True, slots=True, repr=False)
class WriteSecret(Write):
    """Send these bytes, and show them to nobody."""

    def __repr__(self) -> str:
        return f"WriteSecret({len(self.data)} octets)"


@dataclass(frozen=True, slots=True)
class StartTls:
    """Begin the TLS handshake, then call `tls_established`."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The session takes transactions."""


@dataclass(frozen=True, slots=True)
class SendContent:
    """Send the content of this transaction to its end, then call `dot_sent`."""

    transaction: Transaction

    def frame(self) -> tuple[bytes, bytes, bytes]:
        """Return what goes before the content, the content, and what ends it.

        A chunk has no mark at its end: its last octet ends it, as the dot does otherwise.
        """
        content = self.transaction.message.content
        if self.transaction.is_chunked:
            content = ended(content)
            return b"BDAT %d LAST\r\n" % len(content), content, b""
        return b"", dot_stuffed(content), b".\r\n"


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
