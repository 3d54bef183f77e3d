"""How a mailbox provider behaves: limits, extensions, greylisting and rules with shares.

Gives    Manner, Rule, Greylist, TlsManner, Extension; draw(), unknown_user(), policy_block(),
         mailbox_full(), slow_banner(), stall_at(), close_after_dot()
Takes    a seed and a key: the same seed, rule and key always draw the same number, so a retry of a
         recipient meets the same decision, in this process or the next
Raises   ValueError for a share outside 0..1 or a limit below one
Follows  RFC 3463 (enhanced status), RFC 6647 (greylisting)
"""

import hashlib
import math
from dataclasses import dataclass, field
from enum import Enum

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
    the connection before that. A step without a reply only slows: later rules still count.
    """

    name: str
    stage: Stage
    step: Step
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"rule {self.name!r}: share must lie in 0..1, not {self.share!r}")

    def applies(self, seed: int, key: str) -> bool:
        """Whether this key is in the share."""
        return self.share > 0 and (self.share >= 1 or draw(seed, self.name, key) < self.share)


@dataclass(frozen=True, slots=True)
class Greylist:
    """Defer a new (client network, reverse-path, recipient) until it comes back `after_s` later."""

    after_s: float
    share: float = 1.0

    def __post_init__(self) -> None:
        if not self.after_s >= 0:
            raise ValueError(f"greylist: after_s must not be negative: {self.after_s!r}")
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"greylist: share must lie in 0..1, not {self.share!r}")


@dataclass(frozen=True, slots=True)
class Manner:
    """The whole behaviour of one provider."""

    rules: tuple[Rule, ...] = ()
    greylist: Greylist | None = None
    tls: TlsManner = TlsManner.NONE
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

    def step_at(self, stage: Stage, *, seed: int, key: str) -> Step | None:
        """Return what the rules make of this moment, or None when they leave it alone."""
        delay_s = 0.0
        for rule in self.rules:
            if rule.stage is not stage or not rule.applies(seed, key):
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


def close_after_dot(share: float) -> Rule:
    """Read a share of the messages whole, then close without a word."""
    step = Step(closing=Closing.INSTEAD)
    return Rule("close_after_dot", Stage.DOT, step, share)
