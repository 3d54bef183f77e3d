"""Decide what a message from a mailbox of ours tells, once it is known whom it is about.

Gives    Fate; facts_of (what the statistics know of recipients); tell -> Told
Takes    an Inbound (classify.inbound), the facts of the recipient its token names, the patterns
Raises   nothing
Follows  design.md section 3 step 9: the same events, classified by the same patterns

The event's id comes from the message, its recipient and the kind alone, so that the same report
counts once, however often it is read and however many copies of it there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from mailcore.classify.arf import Feedback
from mailcore.classify.dsn import DsnRecipient
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
    "tls_policy": "",
    "tls_result": "",
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
    """What one message comes to: an event for each recipient it is about."""

    fate: Fate
    events: tuple[Event, ...] = ()


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
    meant = _meant(inbound, inbound.token, facts)
    if isinstance(meant, Fate):
        return Told(meant)
    if account_id not in (0, meant[0].account_id):
        return Told(Fate.FOREIGN)
    kind = _EVENT_KINDS[inbound.kind]
    told = []
    for known in meant:
        event = replace(
            known,
            **_OF_THE_ATTEMPT,
            event_id=event_id(
                message_id=inbound.token.message_id,
                recipient_no=known.recipient_no,
                claim_no=0,
                kind=kind,
            ),
            kind=kind.value,
            occurred_ms=now_ms,
            policy_revision=policy_revision,
        )
        if inbound.kind is InboundKind.COMPLAINT:
            text = _complaint(inbound.feedback)
            told.append(replace(event, stage="arf", rule="arf", **_reply(text)))
        elif inbound.kind is InboundKind.REPLY:
            told.append(replace(event, stage="reply", **_reply(inbound.subject)))
        elif (about := inbound.bounced(event.recipient)) is not None:
            told.append(_bounced(about, event, patterns))
    # A report of failures that tells of none: it failed for somebody behind the recipient.
    return Told(Fate.TOLD, tuple(told)) if told else Told(Fate.NOTED)


def _meant(inbound: Inbound, token: MessageToken, facts: Facts) -> Sequence[Event] | Fate:
    """Return what is known of the recipients a message is about, or why nobody can be meant.

    A token of all recipients leaves it to the message to name them, among those of its own.
    """
    message_id = str(token.message_id)
    if not token.is_of_all:
        known = facts.get((message_id, token.recipient_no))
        return Fate.POSTPONED if known is None else (known,)
    of_message = [event for (its_id, _), event in facts.items() if its_id == message_id]
    if not of_message:
        return Fate.POSTPONED
    named = inbound.named()
    meant = [event for event in of_message if event.recipient.lower() in named]
    if not meant and len(of_message) == 1:
        return of_message
    return meant or Fate.UNTRACED


def _bounced(about: DsnRecipient, event: Event, patterns: CompiledPatterns) -> Event:
    reply = about.reply()
    reading = classify(reply, isp_id=event.isp_id, patterns=patterns)
    return replace(
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


def _reply(text: str, reply: SmtpReply | None = None) -> dict[str, Any]:
    normal = reply.normalised() if reply is not None else ""
    return {"reply": text[:MAX_REPLY], "reply_normal": normal}


def _complaint(feedback: Feedback | None) -> str:
    if feedback is None:
        return ""
    return ": ".join(filter(None, (feedback.kind.value, feedback.user_agent)))
