"""What follows an attempt.

Gives    plan, leave_unknown
Takes    outcomes and the rows they are about
Raises   nothing
Follows  design.md section 3 step 7; RFC 5321 §4.5.4.1 (retry, give-up), §4.5.3.1.10 (552 at RCPT)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from mailcore.classify.replies import (
    CompiledPatterns,
    Reading,
    class_by_code,
    class_by_status,
    classify,
)
from mailcore.disposition.desk import NO_WORDS, Desk, Rulebook
from mailcore.disposition.settlement import Disposition
from mailcore.envelope import QueuedRow
from mailcore.events import EventKind
from mailcore.outcome import BounceClass, BounceType, Outcome, RowState, Scope, Verdict, WaitReason
from mailcore.policy.words import RuleAction
from mailcore.routing.source import choose_retry_source
from mailcore.shaping.retry import Scenario, has_retries_left, next_attempt_at

LOCAL_RULE = "local"
MAX_ATTEMPTS_RULE = "max_attempts"
LIFETIME_RULE = "lifetime"
GONE = frozenset({BounceClass.INVALID_RECIPIENT, BounceClass.BAD_DOMAIN})

_ON_RECIPIENT = frozenset({"rcpt", "data", "dot"})
_NARROW = frozenset({Scope.RECIPIENT, Scope.MESSAGE})
_REASON_OF_STAGE = {"dns": WaitReason.DNS, "spool": WaitReason.NO_CONTENT}
_CLASS_OF_STAGE = {
    "dns": BounceClass.DNS,
    "starttls": BounceClass.TLS,
    "auth": BounceClass.AUTHENTICATION,
    "spool": BounceClass.SYSTEM,
}


def plan(
    outcomes: Iterable[Outcome],
    rows: Mapping[int, QueuedRow],
    *,
    rules: Rulebook,
    node: str,
    now: datetime,
    draw: Callable[[], float],
) -> Disposition:
    """Decide over a batch of outcomes of one node."""
    desk = Desk(rules, node, now)
    strays = []
    for outcome in outcomes:
        row = rows.get(outcome.row_id)
        if row is None:
            strays.append(outcome)
        elif outcome.verdict is Verdict.DELIVERED:
            desk.end(row, EventKind.DELIVERED, outcome, NO_WORDS)
        elif outcome.verdict is Verdict.UNKNOWN or (outcome.after_dot and outcome.reply.is_local):
            leave_unknown(desk, row, outcome)
        else:
            _decide(desk, row, outcome, draw)
    return desk.disposition(strays)


def leave_unknown(desk: Desk, row: QueuedRow, outcome: Outcome) -> None:
    delay_s = desk.rules.scenario(row).rule.unknown_after_s
    reading = ("", BounceClass.CONNECTION.value, "")
    desk.wait(row, outcome, delay_s, WaitReason.UNKNOWN_OUTCOME, state=RowState.UNKNOWN)
    desk.tell(row, EventKind.UNKNOWN, outcome, reading, due_in_s=delay_s)


def _decide(desk: Desk, row: QueuedRow, outcome: Outcome, draw: Callable[[], float]) -> None:
    reading = _read(outcome, isp_id=row.isp_id, patterns=desk.rules.patterns)
    words = (reading.type.value, reading.bounce_class.value, reading.rule)
    if _stops(desk.rules.scenario(row), outcome, reading):
        desk.end(row, EventKind.BOUNCED, outcome, words)
        return
    retry = desk.rules.scenario(row).retry
    attempt = row.attempt + 1
    if _is_verdict(outcome, reading) and not has_retries_left(retry, attempt=attempt):
        desk.end(row, EventKind.BOUNCED, outcome, (*words[:2], MAX_ATTEMPTS_RULE))
        return
    due_at = next_attempt_at(
        retry, attempt=attempt, now=desk.now, expires_at=row.expires_at, jitter=draw()
    )
    if due_at is None:
        desk.end(row, EventKind.EXPIRED, outcome, (*words[:2], LIFETIME_RULE))
        return
    delay_s = (due_at - desk.now).total_seconds()
    pinned = choose_retry_source(
        desk.rules.members(row), mode=retry.mode, tried=desk.source_id(outcome), draw=draw()
    )
    reason = _REASON_OF_STAGE.get(outcome.stage, WaitReason.RETRY)
    desk.wait(row, outcome, delay_s, reason, pinned=pinned)
    desk.tell(row, EventKind.DEFERRED, outcome, words, due_in_s=delay_s)


def _read(outcome: Outcome, *, isp_id: int, patterns: CompiledPatterns) -> Reading:
    """Return what the reply means for this recipient."""
    reply = outcome.reply
    if reply.is_local:
        return _read_local(outcome)
    reading = classify(reply, isp_id=isp_id, patterns=patterns)
    is_soft = not _is_verdict(outcome, reading) or (
        reply.code == 552 and outcome.stage == "rcpt" and not reading.is_matched
    )
    if is_soft and reading.type is not BounceType.SOFT:
        return Reading(BounceType.SOFT, reading.bounce_class, reading.rule, reading.message)
    return reading


def _read_local(outcome: Outcome) -> Reading:
    if outcome.verdict is Verdict.BOUNCED:
        bounce_class = class_by_code(outcome.reply)
        bounce_type = BounceType.HARD if bounce_class in GONE else BounceType.BOUNCE
        return Reading(bounce_type, bounce_class, LOCAL_RULE)
    by_stage = _CLASS_OF_STAGE.get(outcome.stage)
    by_status = class_by_status(outcome.reply.enhanced)
    return Reading(BounceType.SOFT, by_stage or by_status or BounceClass.CONNECTION, LOCAL_RULE)


def _is_verdict(outcome: Outcome, reading: Reading) -> bool:
    """Whether a server spoke about this recipient or this message, and not about us.

    A message too large may be refused as early as MAIL (RFC 1870).
    """
    if outcome.reply.is_local:
        return outcome.verdict is Verdict.BOUNCED
    if outcome.stage == "mail" and outcome.reply.is_permanent:
        return reading.bounce_class is BounceClass.MESSAGE_TOO_LARGE
    return outcome.stage in _ON_RECIPIENT and outcome.scope in _NARROW


def _stops(scenario: Scenario, outcome: Outcome, reading: Reading) -> bool:
    """Whether the rules end the message here."""
    if not _is_verdict(outcome, reading):
        return False
    if outcome.reply.is_local:
        return True
    rule = scenario.rule
    action = {
        BounceType.HARD: rule.hard_action,
        BounceType.SOFT: rule.soft_action,
        BounceType.BOUNCE: rule.bounce_action,
    }[reading.type]
    return action is RuleAction.STOP
