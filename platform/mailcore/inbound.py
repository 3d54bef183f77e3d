"""Decide what a message from a mailbox of ours tells, once it is known whom it is about.

Gives    Fate; facts_of (what the statistics know of recipients); tell -> Told
Takes    an Inbound (classify.inbound), the facts of the recipient its token names, the patterns
Raises   nothing
Follows  design.md section 3 step 9: the same events, classified by the same patterns

The event's id comes from the message, its recipient and the kind alone, so that the same report
counts once, however often it is read and however many copies of it there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from mailcore.classify.arf import Feedback
from mailcore.classify.inbound import Correlation, Inbound, InboundKind
from mailcore.classify.replies import CompiledPatterns, classify
from mailcore.events import FIELDS, Event, EventKind, event_id
from mailcore.reply import SmtpReply
from mailcore.tokens import MessageToken

MAX_REPLY = 500
# Of all events of a recipient the one that knows the most: who was given the message, and where.
_BEST = (
    EventKind.DELIVERED,
    EventKind.UNKNOWN,
    EventKind.DEFERRED,
    EventKind.BOUNCED,
    EventKind.EXPIRED,
    EventKind.ACCEPTED,
)
_RANK = {kind.value: number for number, kind in enumerate(_BEST)}
_EVENT_KINDS = {
    InboundKind.BOUNCE: EventKind.LATE_BOUNCED,
    InboundKind.COMPLAINT: EventKind.COMPLAINED,
    InboundKind.REPLY: EventKind.REPLIED,
}
# What belonged to the attempt and not to the recipient.
_OF_THE_ATTEMPT: dict[str, Any] = {
    "claim_no": 0,
    "scope": "",
    "bounce_type": "",
    "bounce_class": "",
    "code": 0,
    "enhanced": "",
    "reply": "",
    "reply_normal": "",
    "rule": "",
    "next_due_ms": 0,
    "tls_version": "",
    "tls_cipher": "",
    "queue_ms": 0,
    "dialogue_ms": 0,
}

Facts = Mapping[tuple[str, int], Event]


class Fate(Enum):
    """What became of a message that was read; stored with the count of its mailbox."""

    TOLD = "told"
    NOTED = "noted"
    UNCORRELATED = "uncorrelated"
    FORGED = "forged"
    FOREIGN = "foreign"
    UNTRACED = "untraced"
    POSTPONED = "postponed"


@dataclass(frozen=True, slots=True)
class Told:
    """What one message comes to."""

    fate: Fate
    event: Event | None = None


def facts_of(rows: Iterable[Mapping[str, object]]) -> dict[tuple[str, int], Event]:
    """Return, by message and recipient number, the event that tells the most of each recipient."""
    found: dict[tuple[str, int], Event] = {}
    for row in rows:
        rank = _RANK.get(str(row.get("kind", "")))
        if rank is None:
            continue
        values: dict[str, Any] = {name: row[name] for name in FIELDS if name in row}
        event = Event(**values)
        key = (event.message_id, event.recipient_no)
        if key not in found or rank < _RANK[found[key].kind]:
            found[key] = event
    return found


def tell(
    inbound: Inbound,
    facts: Facts,
    *,
    patterns: CompiledPatterns,
    account_id: int,
    now_ms: int,
    policy_revision: int,
) -> Told:
    """Return what a message tells. `account_id` is the mailbox's; 0 is everybody's."""
    if not inbound.kind.is_told:
        return Told(Fate.NOTED)
    if inbound.token is None:
        is_forged = inbound.correlation is Correlation.REFUSED
        return Told(Fate.FORGED if is_forged else Fate.UNCORRELATED)
    known = facts.get((str(inbound.token.message_id), inbound.token.recipient_no))
    if known is None:
        return Told(Fate.POSTPONED)
    if account_id not in (0, known.account_id):
        return Told(Fate.FOREIGN)
    event = replace(
        known,
        **_OF_THE_ATTEMPT,
        event_id=_event_id(inbound.token, _EVENT_KINDS[inbound.kind]),
        kind=_EVENT_KINDS[inbound.kind].value,
        occurred_ms=now_ms,
        policy_revision=policy_revision,
    )
    if inbound.kind is InboundKind.BOUNCE:
        return _bounced(inbound, event, patterns)
    if inbound.kind is InboundKind.COMPLAINT:
        text = _complaint(inbound.feedback)
        return Told(Fate.TOLD, replace(event, stage="arf", rule="arf", **_reply(text)))
    return Told(Fate.TOLD, replace(event, stage="reply", **_reply(inbound.subject)))


def _bounced(inbound: Inbound, event: Event, patterns: CompiledPatterns) -> Told:
    about = inbound.bounced(event.recipient)
    if about is None:
        # It failed for somebody behind the recipient, who has the message.
        return Told(Fate.NOTED)
    reply = about.reply()
    reading = classify(reply, isp_id=event.isp_id, patterns=patterns)
    told = replace(
        event,
        stage="dsn",
        scope="recipient",
        bounce_type=reading.type.value,
        bounce_class=reading.bounce_class.value,
        rule=reading.rule,
        code=reply.code,
        enhanced="" if reply.enhanced is None else str(reply.enhanced),
        **_reply(str(reply), reply),
    )
    return Told(Fate.TOLD, told)


def _reply(text: str, reply: SmtpReply | None = None) -> dict[str, Any]:
    normal = reply.normalised() if reply is not None else ""
    return {"reply": text[:MAX_REPLY], "reply_normal": normal}


def _complaint(feedback: Feedback | None) -> str:
    if feedback is None:
        return ""
    return ": ".join(filter(None, (feedback.kind.value, feedback.user_agent)))


def _event_id(token: MessageToken, kind: EventKind) -> str:
    return event_id(
        message_id=token.message_id,
        recipient_no=token.recipient_no,
        claim_no=0,
        kind=kind,
    )
