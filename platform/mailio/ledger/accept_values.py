"""What the accepting side of the ledger takes and gives.

Gives    AcceptBatch of AcceptMessage with AcceptRecipient, IdempotencyKey, EventBody (taken);
         AcceptResult of Accepted with AcceptStatus, KnownRoute, StopReason, StoredAnswer (given)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from uuid import UUID

from mailcore.envelope import ContentRef
from mailcore.outcome import MailClass, TlsNeed


@dataclass(frozen=True, slots=True)
class AcceptRecipient:
    """One recipient. `address` is `local@a-label-domain`; site "" is not routed yet; `dsn` is the
    text of a DsnOrder, "" where nobody is told by mail."""

    number: int
    address: str
    domain: str
    site: str = ""
    isp_id: int = 0
    dsn: str = ""


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """The key of a request, the hash of its body and the answer to give.

    All messages of a request carry an equal one. Two requests never have an equal one, because
    the answer names their message ids.
    """

    account_id: int
    key: str
    body_hash: bytes
    answer: str


@dataclass(frozen=True, slots=True)
class AcceptMessage:
    """One message to accept.

    Due at the latest of now, now + `delay_s` and `send_at`; expires at `expires_at`, or
    `lifetime_s` after it is due. `custom` is JSON.
    """

    message_id: UUID
    account_id: int
    sender_id: int
    mail_class: MailClass
    header_from: str
    reverse_path: str
    content: ContentRef
    recipients: tuple[AcceptRecipient, ...]
    lifetime_s: float
    campaign_id: int = 0
    tls_need: TlsNeed = TlsNeed.POLICY
    message_id_header: str = ""
    custom: str = ""
    delay_s: float = 0.0
    send_at: datetime | None = None
    expires_at: datetime | None = None
    idempotency: IdempotencyKey | None = None


@dataclass(frozen=True, slots=True)
class EventBody:
    """An outbox body (`mailcore.events.encode_lines`) and how many events are in it."""

    body: bytes
    count: int


@dataclass(frozen=True, slots=True)
class AcceptBatch:
    """Messages of one commit. `events` encodes the events of those that are really taken.

    It is called with a subset of `messages`, in order: once, or again when a key turned out taken.
    """

    messages: Sequence[AcceptMessage]
    events: Callable[[Sequence[AcceptMessage]], EventBody]


class AcceptStatus(Enum):
    """What became of a message: ours; answered before; its key belongs to another body."""

    ACCEPTED = "accepted"
    REPEATED = "repeated"
    REUSED = "reused"


@dataclass(frozen=True, slots=True)
class Accepted:
    """The fate of one message. `answer` is the stored one when REPEATED."""

    message_id: UUID
    status: AcceptStatus
    answer: str = ""


@dataclass(frozen=True, slots=True)
class AcceptResult:
    """One `Accepted` a message, in the batch's order."""

    messages: tuple[Accepted, ...]

    @property
    def accepted(self) -> frozenset[UUID]:
        """The ids that are ours now."""
        taken = AcceptStatus.ACCEPTED
        return frozenset(m.message_id for m in self.messages if m.status is taken)


@dataclass(frozen=True, slots=True)
class KnownRoute:
    """Where a domain's mail goes, as routing found it not long ago."""

    site: str
    isp_id: int


@dataclass(frozen=True, slots=True)
class StopReason:
    """Why an address is not mailed; account 0 is the whole installation."""

    account_id: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """What an idempotency key was used for."""

    body_hash: bytes
    answer: str
