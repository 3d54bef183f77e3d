"""Events as a fleet would write them, and short words for what tests do with them."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace
from typing import Any
from uuid import UUID

from mailcore.envelope import uuid7
from mailcore.events import Event, EventKind, encode_lines, event_id, recipient_hash

# 2026-03-01 12:00:00 UTC
NOON_MS = 1_772_366_400_000
NOON = NOON_MS // 60_000
_numbers = itertools.count(1)


def message_id() -> UUID:
    number = next(_numbers)
    return uuid7(NOON_MS + number, number.to_bytes(10, "big"))


def event(
    kind: EventKind = EventKind.DELIVERED,
    *,
    message: UUID | None = None,
    recipient_no: int = 0,
    claim_no: int = 1,
    at_ms: int = NOON_MS,
    **values: Any,
) -> Event:
    """Return an event of a message of its own, unless told otherwise."""
    message = message or message_id()
    base = Event(
        event_id=event_id(
            message_id=message, recipient_no=recipient_no, claim_no=claim_no, kind=kind
        ),
        kind=kind.value,
        occurred_ms=at_ms,
        message_id=str(message),
        recipient_no=recipient_no,
        claim_no=claim_no,
        account_id=1,
        campaign_id=4,
        campaign="spring",
        sender_id=2,
        node="n1",
        source_id=3,
        source_ip="192.0.2.3",
        isp_id=5,
        isp="Example Mail",
        recipient="ann@example.com",
        recipient_domain="example.com",
        recipient_hash=recipient_hash("ann@example.com"),
        attempt=claim_no,
        size_bytes=1000,
        queue_ms=250,
        dialogue_ms=20,
    )
    return replace(base, **values)


def full_event() -> Event:
    """Return an event with another value in every field."""
    values: dict[str, Any] = {}
    for number, field in enumerate(fields(Event), start=1):
        values[field.name] = number if field.type in (int, "int") else f"{field.name} é '\\\n\t\"✓"
    values |= {
        "event_id": "0123456789abcdef" * 2,
        "kind": "deferred",
        "message_id": str(message_id()),
        "occurred_ms": NOON_MS + 1,
    }
    return Event(**values)


def body(*events: Event) -> bytes:
    return encode_lines(events)


def as_row(one: Event) -> dict[str, object]:
    return {field.name: getattr(one, field.name) for field in fields(Event)}
