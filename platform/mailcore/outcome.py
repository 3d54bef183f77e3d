"""The closed vocabularies of a delivery, and what one attempt did for one recipient.

Gives    Verdict, Scope, BounceType, BounceClass, MailClass, RowState, WaitReason, TlsNeed,
         TlsPolicy, TlsResult, Outcome
Follows  style.md rule 3: every failure names its scope, the scope says who has to wait
         RFC 3463 for the enhanced status of our own answers
The values of these enums are what is stored and sent; they never change.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Self

from mailcore.reply import SmtpReply


class Verdict(Enum):
    """What an attempt did for one recipient."""

    DELIVERED = "delivered"
    DEFERRED = "deferred"
    BOUNCED = "bounced"
    UNKNOWN = "unknown"


class Scope(Enum):
    """Who has to wait after a failure."""

    RECIPIENT = "recipient"
    MESSAGE = "message"
    SESSION = "session"
    HOST = "host"
    SITE = "site"
    SOURCE = "source"


class BounceType(Enum):
    """The bounce pattern's reading of a reply (reference/mta-model.md §7.3)."""

    HARD = "hard"
    SOFT = "soft"
    BOUNCE = "bounce"


class BounceClass(Enum):
    """Why a message was refused; the closed list under a bounce type."""

    NONE = "none"
    INVALID_RECIPIENT = "invalid_recipient"
    INACTIVE_MAILBOX = "inactive_mailbox"
    BAD_DOMAIN = "bad_domain"
    MAILBOX_FULL = "mailbox_full"
    MESSAGE_TOO_LARGE = "message_too_large"
    SPAM_CONTENT = "spam_content"
    SPAM_BLOCK = "spam_block"
    POLICY = "policy"
    AUTHENTICATION = "authentication"
    RATE_LIMIT = "rate_limit"
    GREYLISTED = "greylisted"
    CONNECTION = "connection"
    DNS = "dns"
    TLS = "tls"
    PROTOCOL = "protocol"
    SYSTEM = "system"
    RELAY_DENIED = "relay_denied"
    EXPIRED = "expired"
    UNCLASSIFIED = "unclassified"


class MailClass(IntEnum):
    """Which queue a row belongs to; a priority row keeps its class for life."""

    PRIORITY = 0
    MAIN = 1

    @property
    def word(self) -> str:
        """The name used in the API, metrics and queues."""
        return self.name.lower()


class TlsNeed(IntEnum):
    """What the submission asks of TLS; part of the lane, since it decides the connection."""

    POLICY = 0
    REQUIRED = 1  # Encrypted.
    REQUIRETLS = 2  # Authenticated, and asked of the servers behind as well (RFC 8689).


class TlsPolicy(Enum):
    """Whose word on TLS an attempt went by: RFC 8460 §4.4's policy types, and operators'."""

    TLSA = "tlsa"
    STS = "sts"
    NOT_FOUND = "no-policy-found"
    OPERATOR = "operator"


class TlsResult(Enum):
    """What went wrong with TLS: the result types of RFC 8460 §4.3."""

    NOT_OFFERED = "starttls-not-supported"
    WRONG_HOST = "certificate-host-mismatch"
    EXPIRED = "certificate-expired"
    NOT_TRUSTED = "certificate-not-trusted"
    VALIDATION_FAILURE = "validation-failure"
    TLSA_INVALID = "tlsa-invalid"
    DNSSEC_INVALID = "dnssec-invalid"
    DANE_REQUIRED = "dane-required"
    STS_FETCH_ERROR = "sts-policy-fetch-error"
    STS_INVALID = "sts-policy-invalid"
    STS_WEBPKI_INVALID = "sts-webpki-invalid"


class RowState(IntEnum):
    """State of a ledger row; *held* is derived from holds."""

    WAITING = 0
    LEASED = 1
    UNKNOWN = 2


class WaitReason(Enum):
    """Why a row waits; shown beside every waiting row."""

    NEW = "new"
    SCHEDULED = "scheduled"
    UNROUTED = "unrouted"
    DNS = "dns"
    RETRY = "retry"
    RETURNED = "returned"
    RECLAIMED = "reclaimed"
    NO_SOURCE = "no_source"
    NO_CONTENT = "no_content"
    UNKNOWN_OUTCOME = "unknown_outcome"
    HELD = "held"
    RESTORED = "restored"


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What a session was like; stamped on the events of its attempts.

    `tls_policy` is a TlsPolicy, "" where nobody asked; `tls_result` a TlsResult, "" for success.
    """

    mx_host: str = ""
    mx_address: str = ""
    source_address: str = ""
    ehlo_name: str = ""
    tls_version: str = ""
    tls_cipher: str = ""
    tls_policy: str = ""
    tls_result: str = ""
    offers_dsn: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one attempt did for one recipient, before any rule has looked at it.

    `stage` is the step that decided (`dns connect banner ehlo starttls auth mail rcpt data dot`);
    `dialogue_ms` the time from MAIL to the deciding reply; `after_dot` whether the content had
    been sent whole when the session was lost, so that a copy may have been delivered.
    """

    row_id: int
    claim_no: int
    verdict: Verdict
    scope: Scope
    reply: SmtpReply
    stage: str
    session: SessionInfo = SessionInfo()
    dialogue_ms: int = 0
    after_dot: bool = False
    source_id: int = 0
    occurred_ms: int = 0

    @classmethod
    def deferred(
        cls,
        row_id: int,
        claim_no: int,
        *,
        scope: Scope,
        reply: SmtpReply,
        stage: str,
        session: SessionInfo = SessionInfo(),
        source_id: int = 0,
        occurred_ms: int = 0,
    ) -> Self:
        """An attempt that never reached a server's word on the recipient."""
        return cls(
            row_id,
            claim_no,
            Verdict.DEFERRED,
            scope,
            reply,
            stage,
            session,
            source_id=source_id,
            occurred_ms=occurred_ms,
        )
