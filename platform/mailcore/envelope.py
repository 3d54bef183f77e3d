"""What a client offers, and what we hold once we said yes.

Gives    Submission and Recipient (offered), ContentRef (where content lies in the spool),
         QueuedRow (a ledger row as a delivery sees it), uuid7
Follows  RFC 9562 §5.7 (UUIDv7), RFC 5321 §2.3.1 (envelope and content)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from mailcore.address import ForwardPath, ReversePath
from mailcore.outcome import MailClass, RowState, TlsNeed


def uuid7(unix_ms: int, entropy: bytes) -> UUID:
    """Return a UUIDv7 from milliseconds since 1970 and ten random bytes."""
    if len(entropy) != 10:
        raise ValueError("ten bytes of entropy are needed")
    head = unix_ms.to_bytes(6, "big")
    rand_a = (int.from_bytes(entropy[:2], "big") & 0x0FFF) | 0x7000
    rand_b = (int.from_bytes(entropy[2:], "big") & (2**62 - 1)) | (1 << 63)
    return UUID(bytes=head + rand_a.to_bytes(2, "big") + rand_b.to_bytes(8, "big"))


@dataclass(frozen=True, slots=True, order=True)
class ContentRef:
    """Where a message's bytes lie: a segment of the spool, an offset, a length, a CRC-32.

    Segment numbers rise with time (milliseconds since 1970 × 4096 + a writer's number), so that
    rows of one time name few segments. A spool that has no files keeps the same four numbers.
    """

    segment: int
    offset: int
    length: int
    crc: int


@dataclass(frozen=True, slots=True)
class Recipient:
    """One forward-path of a submission. `number` is its place in it, from 0.

    `dsn` is the text of its `dsn.DsnOrder` where the message came by SMTP, else "".
    """

    number: int
    address: ForwardPath
    dsn: str = ""


@dataclass(frozen=True, slots=True)
class Submission:
    """One message as offered, after parsing: whole, repaired, but not yet ours.

    `content` is RFC 5322 bytes with CRLF line ends, Date, Message-ID and MIME-Version present,
    Bcc and Return-Path gone. `header_from` is the domain of the From field. `expires_at` and
    `send_at` are aware UTC; None means the account's rule, and now. `custom` is handed back in
    events and hooks, as JSON of at most 2 KB.
    """

    message_id: UUID
    account_id: int
    sender_id: int
    mail_class: MailClass
    header_from: str
    reverse_path: ReversePath
    recipients: tuple[Recipient, ...]
    content: bytes
    campaign: str = ""
    send_at: datetime | None = None
    expires_at: datetime | None = None
    tls_need: TlsNeed = TlsNeed.POLICY
    message_id_header: str = ""
    subject: str = ""
    custom: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class QueuedRow:
    """A ledger row as a claim returns it: one recipient owed a result. `dsn` as in Recipient."""

    id: int
    lane_id: int
    state: RowState
    message_id: UUID
    recipient_no: int
    recipient: ForwardPath
    reverse_path: ReversePath
    content: ContentRef
    header_from: str
    message_id_header: str
    account_id: int
    sender_id: int
    campaign_id: int
    campaign: str
    mail_class: MailClass
    tls_need: TlsNeed
    site: str
    isp_id: int
    accepted_at: datetime
    due_at: datetime
    expires_at: datetime
    attempt: int
    claim_no: int
    pinned_source_id: int | None
    custom: str
    last_reply: str = ""
    dsn: str = ""
