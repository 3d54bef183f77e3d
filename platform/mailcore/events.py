"""All that happened: the vocabulary of events, and one event as stored and sent.

Gives    EventKind, Event, event_id, encode_lines / decode_lines (the outbox body)
Raises   SchemaError for a body that is not ours or of a version we do not read
Follows  design.md sections 2 and 9; reference/mta-model.md §9.7 for the names of the model product

An event is written in the same transaction as the change it tells, so it is never lost; its id is
a hash of what it is about, so that a repeat changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from uuid import UUID

from mailcore.errors import SchemaError


class EventKind(Enum):
    """The closed list of what can happen to a recipient."""

    ACCEPTED = "accepted"
    DELIVERED = "delivered"
    DEFERRED = "deferred"
    BOUNCED = "bounced"
    EXPIRED = "expired"
    STOPPED = "stopped"
    PURGED = "purged"
    UNKNOWN = "unknown"
    LATE_BOUNCED = "late_bounced"
    COMPLAINED = "complained"
    REPLIED = "replied"
    UNSUBSCRIBED = "unsubscribed"
    REJECTED = "rejected"

    @property
    def is_final(self) -> bool:
        """Whether it ends what we owe the recipient."""
        return self in FINAL_KINDS


FINAL_KINDS = frozenset(
    {
        EventKind.DELIVERED,
        EventKind.BOUNCED,
        EventKind.EXPIRED,
        EventKind.STOPPED,
        EventKind.PURGED,
    }
)

# The rule of a purge that the account of the mail did itself.
OWN_PURGE_RULE = "account"

_REFERENCE_NAMES = {
    EventKind.ACCEPTED: "send",
    EventKind.DELIVERED: "deliv",
    EventKind.DEFERRED: "sbounce",
    EventKind.EXPIRED: "undeliv",
    EventKind.STOPPED: "suppress",
    EventKind.PURGED: "undeliv",
    EventKind.UNKNOWN: "sbounce",
    EventKind.COMPLAINED: "complain",
    EventKind.REPLIED: "reply",
    EventKind.UNSUBSCRIBED: "unsub",
    EventKind.REJECTED: "undeliv",
}


def reference_name(kind: EventKind, *, bounce_type: str) -> str:
    """Return the model product's name of an event (`send deliv undeliv sbounce hbounce …`)."""
    if kind in (EventKind.BOUNCED, EventKind.LATE_BOUNCED):
        return "hbounce" if bounce_type == "hard" else "undeliv"
    return _REFERENCE_NAMES[kind]


def event_id(*, message_id: UUID, recipient_no: int, claim_no: int, kind: EventKind) -> str:
    """Return the 32 hex digits that name an event, the same for every repeat of it."""
    key = f"{message_id.hex}:{recipient_no}:{claim_no}:{kind.value}"
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Event:
    """One event: everything a chart, a hook or a stop list may ask of it.

    Times are milliseconds since 1970 (UTC); `occurred_ms` is when it happened by the database's
    clock. Numbers that do not apply are 0, texts "". Field order is the order of the columns.
    `dsn` is the text of the DsnFacts from which the sender is told, where one wants to be.
    """

    event_id: str
    kind: str
    occurred_ms: int
    message_id: str
    recipient_no: int
    claim_no: int
    account_id: int
    campaign_id: int = 0
    campaign: str = ""
    sender_id: int = 0
    node: str = ""
    source_id: int = 0
    source_ip: str = ""
    pool_id: int = 0
    isp_id: int = 0
    isp: str = ""
    site: str = ""
    mx_host: str = ""
    mx_address: str = ""
    mail_class: str = ""
    recipient: str = ""
    recipient_domain: str = ""
    recipient_hash: str = ""
    header_from: str = ""
    message_id_header: str = ""
    accepted_ms: int = 0
    attempt: int = 0
    stage: str = ""
    scope: str = ""
    bounce_type: str = ""
    bounce_class: str = ""
    code: int = 0
    enhanced: str = ""
    reply: str = ""
    reply_normal: str = ""
    rule: str = ""
    next_due_ms: int = 0
    tls_version: str = ""
    tls_cipher: str = ""
    size_bytes: int = 0
    queue_ms: int = 0
    dialogue_ms: int = 0
    policy_revision: int = 0
    custom: str = ""
    tls_policy: str = ""
    tls_result: str = ""
    dsn: str = ""


FIELDS = tuple(f.name for f in fields(Event))
_MAGIC = b"E1"


def recipient_hash(key: str) -> str:
    """Return the 32 hex digits under which a recipient is counted and stop-listed."""
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


def encode_lines(events: Iterable[Event]) -> bytes:
    """Return the outbox body: a version mark and compressed lines of JSON, empty fields left out.

    ClickHouse fills left-out fields with the defaults of their columns, which are the same.
    """
    lines = []
    for event in events:
        row = {name: value for name in FIELDS if (value := getattr(event, name)) not in ("", 0)}
        lines.append(json.dumps(row, ensure_ascii=False, separators=(",", ":")))
    return _MAGIC + zlib.compress("\n".join(lines).encode(), 1)


def raw_lines(body: bytes) -> bytes:
    """Return the lines of JSON of an outbox body, without parsing them."""
    if body[:2] != _MAGIC:
        raise SchemaError(f"an outbox body of version {body[:2]!r} is not read")
    try:
        return zlib.decompress(body[2:])
    except zlib.error as exc:
        raise SchemaError(f"an outbox body is damaged: {exc}") from exc


def decode_lines(body: bytes) -> Sequence[Event]:
    """Return the events of an outbox body; unknown fields of a newer writer are ignored."""
    events = []
    for line in raw_lines(body).splitlines():
        row = json.loads(line)
        events.append(Event(**_DEFAULTS | {k: v for k, v in row.items() if k in _KNOWN}))
    return events


_KNOWN = frozenset(FIELDS)
_DEFAULTS: dict[str, object] = {
    "event_id": "",
    "kind": "",
    "occurred_ms": 0,
    "message_id": "",
    "recipient_no": 0,
    "claim_no": 0,
    "account_id": 0,
}
