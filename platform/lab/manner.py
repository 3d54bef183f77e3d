"""How a mailbox provider behaves: limits, extensions, greylisting and rules with shares.

Gives    Manner, Rule, DrawnBy, Greylist, FullMailbox, Throttle, TlsManner, Certificate, Extension,
         Feedback, BounceStyle; draw(), unknown_user(), policy_block(), mailbox_full(),
         slow_banner(), stall_at(), late_answer(), close_after_dot(), lose_reply()
Takes    a seed and a key: the same seed, rule and key always draw the same number, so a retry of a
         recipient meets the same decision, in this process or the next
Raises   ValueError for a share outside 0..1 or a limit below one
Follows  RFC 3463 (enhanced status), RFC 6647 (greylisting)
"""

import hashlib
import math
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar

from lab.script import Closing, Stage, Step


class Extension(Enum):
    """Service extensions a receiver can offer; STARTTLS follows from the TLS manner."""

    PIPELINING = "PIPELINING"
    SIZE = "SIZE"
    EIGHT_BIT_MIME = "8BITMIME"
    SMTPUTF8 = "SMTPUTF8"
    ENHANCED_STATUS_CODES = "ENHANCEDSTATUSCODES"
    DSN = "DSN"
    CHUNKING = "CHUNKING"


class TlsManner(Enum):
    """Whether STARTTLS is offered."""

    NONE = "none"
    OFFERED = "offered"
    REQUIRED = "required"  # MAIL before STARTTLS is answered 530 5.7.0


class Certificate(Enum):
    """What a receiver shows after STARTTLS."""

    OWN_NAMES = "own_names"
    EXPIRED = "expired"
    OTHER_NAME = "other_name"


class DrawnBy(Enum):
    """What a rule's share is a share of."""

    SUBJECT = "subject"  # see Rule: the same decision at every retry
    CONNECTION = "connection"
    ATTEMPT = "attempt"  # drawn anew for every transaction: a retry may fare better


class Defect(Enum):
    """Faults of what a client sent, always counted."""

    BARE_NEWLINE = "bare_newline"  # CR or LF alone in content (RFC 5321 §2.3.8)
    LONG_LINE = "long_line"  # over 998 octets before CRLF (RFC 5322 §2.1.1)
    NUL_OCTET = "nul_octet"
    UNDECLARED_8BIT = "undeclared_8bit"  # octets over 127 without BODY=8BITMIME
    UNDECLARED_UTF8 = "undeclared_utf8"  # such octets in the header without SMTPUTF8
    TALKED_EARLY = "talked_early"  # sent before a reply it had to wait for (RFC 2920 §3.1)
    TLS_INJECTION = "tls_injection"  # plain text behind STARTTLS (discarded, RFC 3207 §5)


OFFERED_BY_DEFAULT = frozenset(Extension) - {Extension.CHUNKING}
REFUSED_BY_DEFAULT = frozenset({Defect.BARE_NEWLINE, Defect.LONG_LINE, Defect.NUL_OCTET})


def draw(seed: int, name: str, key: str) -> float:
    """Return a number in [0, 1) that depends on nothing but the arguments."""
    digest = hashlib.blake2b(f"{seed}\0{name}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


@dataclass(frozen=True, slots=True)
class Rule:
    """At a stage, a share of the keys meets this step.

    The key is the recipient at RCPT, the message at DATA and the dot, the reverse-path at MAIL and
    the connection before that, unless `drawn_by` asks for another. A step without a reply only
    slows: later rules still count.
    """

    name: str
    stage: Stage
    step: Step
    share: float = 1.0
    drawn_by: DrawnBy = DrawnBy.SUBJECT

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"rule {self.name!r}: share must lie in 0..1, not {self.share!r}")

    def applies(self, seed: int, key: str, *, connection: int = 0, transaction: int = 0) -> bool:
        """Whether this moment is in the share."""
        if self.drawn_by is DrawnBy.CONNECTION:
            key = f"#{connection}"
        elif self.drawn_by is DrawnBy.ATTEMPT:
            key = f"#{connection}.{transaction} {key}"
        return self.share > 0 and (self.share >= 1 or draw(seed, self.name, key) < self.share)


@dataclass(frozen=True, slots=True)
class Wait:
    """Defer a share of the recipients until `after_s` after they were first asked for."""

    name: ClassVar[str] = "wait"
    after_s: float
    share: float = 1.0

    def __post_init__(self) -> None:
        if not self.after_s >= 0:
            raise ValueError(f"{self.name}: after_s must not be negative: {self.after_s!r}")
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"{self.name}: share must lie in 0..1, not {self.share!r}")


class Greylist(Wait):
    """Each (client network, reverse-path, recipient) is new once."""

    __slots__ = ()
    name = "greylist"


class FullMailbox(Wait):
    """A mailbox is full until its owner has cleared it."""

    __slots__ = ()
    name = "full_mailbox"


@dataclass(frozen=True, slots=True)
class Throttle:
    """What one client address may send: a rate with a burst, all MX hosts of a provider together.

    Who goes beyond it is answered 421 until `penalty_s` later, at the greeting and at MAIL.
    """

    messages_per_s: float
    burst: int = 10
    penalty_s: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.messages_per_s) and self.messages_per_s > 0):
            raise ValueError(f"throttle: messages_per_s must be above 0: {self.messages_per_s!r}")
        if self.burst < 1:
            raise ValueError(f"throttle: burst must be at least 1, not {self.burst!r}")
        if not self.penalty_s >= 0:
            raise ValueError(f"throttle: penalty_s must not be negative: {self.penalty_s!r}")


class BounceStyle(Enum):
    """Whose hand a report of non-delivery shows; no two programs fill one in alike."""

    PLAIN = "plain"  # text, status, the whole message
    TRANSCRIPT = "transcript"  # headers only, several lines of diagnosis
    OFFICE = "office"  # base64 text beside HTML, terse fields, its own dialect
    WEBMAIL = "webmail"  # UTF-8 prose, related parts, headers at the end


@dataclass(frozen=True, slots=True)
class Feedback:
    """What comes back, `after_s` to twice that later, for shares of what a provider accepted."""

    late_bounce_share: float = 0.0
    complaint_share: float = 0.0
    after_s: float = 5.0
    style: BounceStyle = BounceStyle.PLAIN
    redacts: bool = False  # complaints do not name the recipient

    def __post_init__(self) -> None:
        for name in ("late_bounce_share", "complaint_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"feedback: {name} must lie in 0..1: {getattr(self, name)!r}")
        if self.late_bounce_share + self.complaint_share > 1.0:
            raise ValueError("feedback: the shares together are over 1")
        if not (math.isfinite(self.after_s) and self.after_s >= 0):
            raise ValueError(f"feedback: after_s must be a number from 0: {self.after_s!r}")


@dataclass(frozen=True, slots=True)
class Manner:
    """The whole behaviour of one provider."""

    rules: tuple[Rule, ...] = ()
    greylist: Greylist | None = None
    full_mailbox: FullMailbox | None = None
    throttle: Throttle | None = None
    tls: TlsManner = TlsManner.NONE
    certificate: Certificate = Certificate.OWN_NAMES
    extensions: frozenset[Extension] = OFFERED_BY_DEFAULT
    refused_defects: frozenset[Defect] = field(default=REFUSED_BY_DEFAULT)
    max_size_bytes: int = 25 * 1024 * 1024
    max_recipients: int = 100
    max_connections: int | None = None
    max_messages_per_connection: int | None = None
    idle_timeout_s: float = 300.0

    def __post_init__(self) -> None:
        for name in ("max_size_bytes", "max_recipients", "max_connections"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"manner: {name} must be at least 1, not {limit!r}")
        if self.max_messages_per_connection is not None and self.max_messages_per_connection < 1:
            raise ValueError("manner: max_messages_per_connection must be at least 1")

    def step_at(
        self, stage: Stage, *, seed: int, key: str, connection: int = 0, transaction: int = 0
    ) -> Step | None:
        """Return what the rules make of this moment, or None when they leave it alone."""
        delay_s = 0.0
        for rule in self.rules:
            if rule.stage is not stage or not rule.applies(
                seed, key, connection=connection, transaction=transaction
            ):
                continue
            delay_s += rule.step.delay_s
            if rule.step.reply is not None or rule.step.closing is not Closing.NEVER:
                return Step(rule.step.reply, delay_s, rule.step.closing)
        return Step(None, delay_s) if delay_s else None


def unknown_user(share: float) -> Rule:
    """Refuse a share of the recipients for good: there is no such mailbox."""
    step = Step("550 5.1.1 No such user here")
    return Rule("unknown_user", Stage.RCPT, step, share)


def mailbox_full(share: float) -> Rule:
    """Defer a share of the recipients for ever: their mailbox is full."""
    return Rule("mailbox_full", Stage.RCPT, Step("452 4.2.2 Mailbox is full"), share)


def policy_block(share: float) -> Rule:
    """Refuse a share of the messages after their content was seen."""
    step = Step("554 5.7.1 Message refused by policy")
    return Rule("policy_block", Stage.DOT, step, share)


def slow_banner(delay_s: float, share: float = 1.0) -> Rule:
    """Keep a share of the connections waiting for the greeting."""
    return Rule("slow_banner", Stage.CONNECT, Step(None, delay_s), share)


def stall_at(stage: Stage, share: float) -> Rule:
    """Never answer a share of what comes to a stage."""
    return Rule(f"stall_at_{stage.value}", stage, Step(None, math.inf), share)


def late_answer(
    stage: Stage, delay_s: float, share: float, *, drawn_by: DrawnBy = DrawnBy.CONNECTION
) -> Rule:
    """Stall on a share of the connections, or attempts, and answer in the end."""
    return Rule(f"late_answer_{stage.value}", stage, Step(None, delay_s), share, drawn_by)


def lose_reply(share: float) -> Rule:
    """Take a share of what is sent, count it, then close without a word.

    Drawn anew for each attempt: the sender cannot know, sends again, and that copy is one too many.
    """
    step = Step(closing=Closing.TAKEN)
    return Rule("lose_reply", Stage.DOT, step, share, DrawnBy.ATTEMPT)


def close_after_dot(share: float) -> Rule:
    """Read a share of the messages whole, then close without a word and forget them."""
    step = Step(closing=Closing.INSTEAD)
    return Rule("close_after_dot", Stage.DOT, step, share)
