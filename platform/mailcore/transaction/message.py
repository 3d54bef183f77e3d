"""What a transaction carries, and what is known of it so far.

Gives    WireMessage, RecipientReply, Transaction, Stage; dot_stuffed
Raises   nothing
Follows  RFC 5321 §4.5.2 (dots), §4.5.3.1.10 (552 at RCPT), RFC 3461 (DSN), RFC 8689 (REQUIRETLS)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from mailcore.dsn import DsnRequest
from mailcore.outcome import Scope
from mailcore.reply import EnhancedStatus, SmtpReply


@dataclass(frozen=True, slots=True)
class WireMessage:
    """What one transaction carries. `content` is CRLF bytes, not yet dot-stuffed.

    With `requires_tls` it goes only under TLS and only to a server that offers REQUIRETLS.
    """

    reverse_path: str
    forward_paths: tuple[str, ...]
    content: bytes
    needs_8bit: bool = False
    needs_smtputf8: bool = False
    dsn: DsnRequest | None = None
    requires_tls: bool = False


@dataclass(frozen=True, slots=True)
class RecipientReply:
    """The reply that decided over one forward-path, and the step it answered."""

    reply: SmtpReply
    stage: str
    scope: Scope


def dot_stuffed(content: bytes) -> bytes:
    """Return content with a dot doubled where it begins a line, and a line end at its end.

    A bare LF ends a line for some receivers: nothing behind one may look like the end. A bare CR
    does not come this far (`render.repair`), and looking for one would cost as much again.
    """
    if b"\n." in content:
        content = content.replace(b"\n.", b"\n..")
    if content.startswith(b"."):
        content = b"." + content
    return content if content.endswith(b"\r\n") else ended(content)


def ended(content: bytes) -> bytes:
    """Return content with a line end at its end, unless it is empty."""
    return content if not content or content.endswith(b"\r\n") else content + b"\r\n"


def _at_rcpt(reply: SmtpReply) -> SmtpReply:
    """RFC 5321 §4.5.3.1.10: 552 at RCPT means too many recipients; treat it as 452."""
    if reply.code != 552:
        return reply
    enhanced = reply.enhanced
    if enhanced is not None:
        enhanced = EnhancedStatus(4, enhanced.subject, enhanced.detail)
    return replace(reply, code=452, enhanced=enhanced)


class Stage(Enum):
    """What a reply answers."""

    BANNER = "banner"
    EHLO = "ehlo"
    HELO = "helo"
    STARTTLS = "starttls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    DOT = "dot"
    LONE_DOT = "lone dot"
    RSET = "rset"

    # A member equals itself alone; Enum hashes the name, in Python, on every look-up.
    __hash__ = object.__hash__

    @property
    def told(self) -> str:
        """The stage an outcome is told with: HELO is EHLO to servers of old."""
        return "ehlo" if self is Stage.HELO else self.value


class Transaction:
    """One transaction and what is known of it so far; `verdicts` has None for the undecided.

    `offered` are the indexes of the forward-paths that the server is asked to take.
    """

    __slots__ = (
        "has_taker",
        "is_chunked",
        "is_dot_sent",
        "is_in_step",
        "is_mail_accepted",
        "may_restart",
        "message",
        "offered",
        "stage",
        "verdicts",
    )

    def __init__(self, message: WireMessage) -> None:
        count = len(message.forward_paths)
        self.message = message
        self.verdicts: list[RecipientReply | None] = [None] * count
        self.offered: range | list[int] = range(count)
        self.stage = Stage.MAIL
        self.is_mail_accepted = False
        # A server may accept a recipient though it refused the MAIL: its state needs a RSET then.
        self.has_taker = False
        self.is_dot_sent = False
        self.is_chunked = False
        # A 354 came in its place: each reply before it was for its own command.
        self.is_in_step = False
        self.may_restart = False

    @property
    def is_decided(self) -> bool:
        """Whether every recipient has its reply."""
        return None not in self.verdicts

    @property
    def undecided(self) -> list[int]:
        """The indexes of the forward-paths that have no reply yet."""
        return [index for index, verdict in enumerate(self.verdicts) if verdict is None]

    @property
    def is_open(self) -> bool:
        """Whether the server took something of the envelope, which a RSET has to drop."""
        return self.is_mail_accepted or self.has_taker

    @property
    def needs_proof(self) -> bool:
        """Whether somebody could bounce by a refusal that was meant for another."""
        if self.is_in_step or len(self.offered) < 2 or not self.is_mail_accepted:
            return False
        return any(known is not None and known.reply.is_permanent for known in self.verdicts)

    @property
    def is_refused_as_second(self) -> bool:
        """Whether MAIL came while the transaction before it was still open for the server."""
        first = self.verdicts[self.offered[0]]
        return first is not None and first.stage == Stage.MAIL.value and first.reply.code == 503

    def decide(self, reply: SmtpReply, stage: Stage, scope: Scope) -> None:
        """Give this reply to all who have none yet."""
        verdict = RecipientReply(reply, stage.value, scope)
        self.verdicts = [verdict if known is None else known for known in self.verdicts]

    def refuse(self, stage: Stage, index: int, reply: SmtpReply) -> None:
        """MAIL or a RCPT was refused."""
        if stage is Stage.MAIL:
            # A 5yz to MAIL is about us: another host may think otherwise.
            self.decide(reply, stage, Scope.HOST if reply.code >= 500 else Scope.MESSAGE)
        elif self.verdicts[index] is None:
            verdict = RecipientReply(_at_rcpt(reply), stage.value, Scope.RECIPIENT)
            self.verdicts[index] = verdict

    def doubt(self) -> None:
        """We may be out of step with the server: what it said so far is nobody's verdict."""
        for index in self.offered:
            self.verdicts[index] = None

    def forget(self) -> None:
        """Go back to the start: the server never took up this transaction."""
        self.doubt()
        self.is_mail_accepted = self.has_taker = self.may_restart = False
