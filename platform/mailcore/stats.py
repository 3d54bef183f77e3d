"""What the statistics are made of: columns from events, and the minutes a batch touches.

Gives    NUMBERS, NO_MESSAGE (columns of the table of events); lines_of, touched_minutes;
         BUCKETS_PER_DOUBLING, bucket_value, quantile (histograms of times); stop_entry,
         stop_entries (which events put an address on its account's stop list)
Takes    outbox bodies (events.encode_lines)
Raises   SchemaError for a body or a line that is not ours
Follows  design.md section 3 step 8: roll-ups are recomputed for touched minutes
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields

from mailcore.errors import SchemaError
from mailcore.events import Event, EventKind, decode_lines, raw_lines
from mailcore.outcome import BounceClass, BounceType
from mailcore.stoplist import StopCause, StopEntry

NO_MESSAGE = "00000000-0000-0000-0000-000000000000"
NUMBERS = frozenset(f.name for f in fields(Event) if f.type in (int, "int"))

MINUTE_MS = 60_000
BUCKETS_PER_DOUBLING = 4

# A quote inside a JSON text is escaped, so that no text can look like the key. An extra match
# would do no harm: a minute computed once more.
_OCCURRED = re.compile(rb'"occurred_ms": ?(\d+)')


def lines_of(body: bytes) -> bytes:
    """Return the lines of JSON of an outbox body, each ended; empty for a body of no events."""
    lines = raw_lines(body)
    return lines + b"\n" if lines else b""


def touched_minutes(lines: bytes) -> set[int]:
    """Return the minutes (Unix time // 60) in which the events of these lines occurred.

    Read without parsing: this runs over every event there is.
    """
    found = _OCCURRED.findall(lines)
    minutes = {int(occurred_ms) // MINUTE_MS for occurred_ms in found}
    if len(found) < lines.count(b"\n"):
        minutes.add(0)
    return minutes


def bucket_value(bucket: int) -> float:
    """Return the milliseconds that stand for a bucket: the geometric middle of its bounds."""
    return float(2 ** ((bucket + 0.5) / BUCKETS_PER_DOUBLING)) - 1.0


def quantile(histogram: Mapping[int, int], level: float) -> float | None:
    """Return the time below which this share of a histogram lies, None of an empty one.

    Off by at most a tenth: that is the width of a bucket.
    """
    total = sum(histogram.values())
    if total == 0:
        return None
    seen = 0
    for bucket in sorted(histogram):
        seen += histogram[bucket]
        if seen >= level * total:
            return bucket_value(bucket)
    raise ValueError(f"a quantile lies between 0 and 1, not at {level}")


MAX_DETAIL = 500

_BOUNCES = frozenset({EventKind.BOUNCED.value, EventKind.LATE_BOUNCED.value})
_GONE = frozenset({BounceClass.INVALID_RECIPIENT.value, BounceClass.INACTIVE_MAILBOX.value})
_CAUSES = {
    EventKind.COMPLAINED.value: StopCause.COMPLAINT,
    EventKind.UNSUBSCRIBED.value: StopCause.UNSUBSCRIBED,
}
_KINDS = re.compile(
    b'"kind": ?"(?:%s)"' % b"|".join(sorted(kind.encode() for kind in {*_BOUNCES, *_CAUSES}))
)


def stop_entry(event: Event) -> StopEntry | None:
    """Return the entry an event leads to, if any.

    A refusal does only when its class says that the recipient is gone: an address is not stopped
    for what we are, for what the message was or for a full mailbox. Never for all accounts.
    """
    cause = _CAUSES.get(event.kind)
    if event.kind in _BOUNCES:
        is_gone = event.bounce_class in _GONE and event.bounce_type == BounceType.HARD.value
        cause = StopCause.HARD_BOUNCE if is_gone else None
    if cause is None or not (event.account_id and event.recipient_hash):
        return None
    # Servers say anything; a text of PostgreSQL holds all of it but NUL.
    detail = event.reply[:MAX_DETAIL].replace("\0", "\ufffd")
    return StopEntry(event.account_id, event.recipient_hash, event.recipient, cause, detail)


def stop_entries(body: bytes) -> Sequence[StopEntry]:
    """Return the entries the events of an outbox body lead to, one for an address.

    Most bodies lead to none and are not parsed.
    """
    if not _KINDS.search(raw_lines(body)):
        return []
    try:
        events = decode_lines(body)
        for event in events:
            _check_types(event)
        found = [entry for event in events if (entry := stop_entry(event)) is not None]
    except SchemaError:
        raise
    except (ValueError, TypeError, AttributeError) as exc:
        raise SchemaError(f"an event is damaged: {exc}") from exc
    return list({(e.account_id, e.recipient_hash): e for e in reversed(found)}.values())


def _check_types(event: Event) -> None:
    for name in ("account_id", "recipient_hash", "recipient", "reply"):
        kind = int if name in NUMBERS else str
        if type(getattr(event, name)) is not kind:
            raise SchemaError(f"{name}: an event has a value of another type")
