"""What becomes of rows without an attempt: expired, stopped, purged, unroutable.

Gives    plan_expired, plan_stopped, plan_purged, plan_unroutable, plan_unknown_due; plan_restored
         for rows whose purge was undone
Takes    rows
Raises   nothing
Follows  design.md section 3 steps 4, 5, 7 and 10
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from mailcore.classify.replies import class_by_code
from mailcore.disposition.attempt import GONE, LIFETIME_RULE, LOCAL_RULE
from mailcore.disposition.desk import NO_WORDS, Desk, Rulebook, Words
from mailcore.disposition.settlement import Disposition
from mailcore.envelope import QueuedRow
from mailcore.events import OWN_PURGE_RULE, EventKind
from mailcore.outcome import BounceClass, BounceType, Outcome, RowState, Scope, Verdict, WaitReason
from mailcore.policy.words import UnknownAction
from mailcore.reply import SmtpReply

UNKNOWN_RULE = "unknown_give_up"
RESTORED_RULE = "undo"


def plan_expired(
    rows: Iterable[QueuedRow],
    *,
    rules: Rulebook,
    node: str,
    now: datetime,
    reply: SmtpReply | None = None,
) -> Disposition:
    """End rows whose lifetime is over, in whatever state they are; say what they waited for.

    `reply` says who ended it, and why, when that was an operator before its time.
    """
    words = (BounceType.BOUNCE.value, BounceClass.EXPIRED.value, LIFETIME_RULE)
    desk = Desk(rules, node, now)
    for row in rows:
        outcome = _unattempted(row, reply or _too_late(row), "")
        desk.end(row, EventKind.EXPIRED, outcome, words, 0)
    return desk.disposition()


def _too_late(row: QueuedRow) -> SmtpReply:
    text = "the message's lifetime is over"
    return SmtpReply.local(
        554, "5.4.7", f"{text}; last: {row.last_reply}" if row.last_reply else text
    )


def plan_stopped(
    rows: Iterable[QueuedRow], *, reply: SmtpReply, rules: Rulebook, node: str, now: datetime
) -> Disposition:
    """End rows whose recipient is on a stop list; the reply says on which and why."""
    return _end_all(rows, EventKind.STOPPED, reply, NO_WORDS, Desk(rules, node, now))


def plan_purged(
    rows: Iterable[QueuedRow],
    *,
    reply: SmtpReply,
    rules: Rulebook,
    node: str,
    now: datetime,
    is_own: bool = False,
) -> Disposition:
    """End rows an operator removes; the reply says who and why. `is_own`: their account did."""
    words = ("", "", OWN_PURGE_RULE) if is_own else NO_WORDS
    return _end_all(rows, EventKind.PURGED, reply, words, Desk(rules, node, now))


def plan_restored(
    rows: Iterable[QueuedRow], *, reply: SmtpReply, rules: Rulebook, node: str, now: datetime
) -> Disposition:
    """Accept purged rows once more: their claim number is the next, so the event is another."""
    desk = Desk(rules, node, now)
    for row in rows:
        words = ("", "", RESTORED_RULE)
        desk.tell(row, EventKind.ACCEPTED, _unattempted(row, reply, ""), words, tries=0)
    return desk.disposition()


def plan_unroutable(
    rows: Iterable[QueuedRow], *, reply: SmtpReply, rules: Rulebook, node: str, now: datetime
) -> Disposition:
    """End rows of a domain that takes no mail (no such domain, null MX)."""
    bounce_class = class_by_code(reply)
    bounce_type = BounceType.HARD if bounce_class in GONE else BounceType.BOUNCE
    words = (bounce_type.value, bounce_class.value, LOCAL_RULE)
    desk = Desk(rules, node, now)
    return _end_all(rows, EventKind.BOUNCED, reply, words, desk, stage="dns")


def plan_unknown_due(
    rows: Iterable[QueuedRow], *, rules: Rulebook, node: str, now: datetime
) -> Disposition:
    """Decide over rows whose outcome stayed unknown for as long as their rule waits."""
    desk = Desk(rules, node, now)
    reply = SmtpReply.local(554, "5.4.2", "the outcome stayed unknown; the rule gives up")
    words = (BounceType.BOUNCE.value, BounceClass.CONNECTION.value, UNKNOWN_RULE)
    for row in rows:
        action = rules.scenario(row).rule.unknown_action
        if action is UnknownAction.GIVE_UP:
            desk.end(row, EventKind.BOUNCED, _unattempted(row, reply, "dot"), words, 0)
        elif action is UnknownAction.HOLD:
            left_s = max(0.0, (row.expires_at - now).total_seconds())
            desk.give_back(row, left_s, WaitReason.UNKNOWN_OUTCOME, RowState.UNKNOWN)
        else:
            desk.give_back(row, 0.0, WaitReason.RETRY, RowState.WAITING)
    return desk.disposition()


def _end_all(
    rows: Iterable[QueuedRow],
    kind: EventKind,
    reply: SmtpReply,
    words: Words,
    desk: Desk,
    *,
    stage: str = "",
) -> Disposition:
    for row in rows:
        desk.end(row, kind, _unattempted(row, reply, stage), words, 0)
    return desk.disposition()


def _unattempted(row: QueuedRow, reply: SmtpReply, stage: str) -> Outcome:
    return Outcome(row.id, row.claim_no, Verdict.UNKNOWN, Scope.RECIPIENT, reply, stage)
