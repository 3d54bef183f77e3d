"""When a deferred message is tried again, and when no more.

Gives    next_delay, next_attempt_at, has_retries_left; Scenario, choose_scenario
Takes    a compiled RetryRule, the number of the attempt that failed, a draw from [0, 1);
         a snapshot, for the choice of the rules
Raises   nothing
Follows  reference/mta-model.md §7.1 (fixed, geometric, random), RFC 5321 §4.5.4.1
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from mailcore.policy.model import DefaultRule, PolicySnapshot, RetryRule
from mailcore.policy.words import RetryMode, RetryType

MAX_DELAY_S = 86400.0
# What holds where an operator has written no rule at all: doubling from five minutes, until the
# message has outlived its lifetime.
BUILT_IN_RETRY = RetryRule(
    id=0,
    name="built-in",
    mode=RetryMode.OTHER_IP_ANY_NODE,
    retries=100,
    interval_s=300.0,
    type=RetryType.GEOMETRIC,
)
BUILT_IN_SCENARIO = DefaultRule(id=0, name="built-in", isp_id=0, priority=0, retry_rule_id=0)


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is done with a failure: the default rule, and the retry rule that says when."""

    rule: DefaultRule
    retry: RetryRule


def choose_scenario(policy: PolicySnapshot, *, sender_id: int, isp_id: int) -> Scenario:
    """Return the rules for mail of a sender to an ISP.

    The sender's default rule comes first, where it is for this ISP or for all; then rules of the
    ISP, then rules for all, the lowest priority number first. A rule for all leaves the times to
    the ISP's own retry rule where it has one.
    """
    rule = _default_rule(policy, sender_id=sender_id, isp_id=isp_id)
    isp = policy.isps.get(isp_id)
    retry_id = rule.retry_rule_id
    if rule.isp_id == 0 and isp is not None and isp.retry_rule_id:
        retry_id = isp.retry_rule_id
    return Scenario(rule, policy.retry_rules.get(retry_id, BUILT_IN_RETRY))


def _default_rule(policy: PolicySnapshot, *, sender_id: int, isp_id: int) -> DefaultRule:
    fitting = [rule for rule in policy.default_rules.values() if rule.isp_id in (0, isp_id)]
    sender = policy.senders.get(sender_id)
    own = sender.default_rule_id if sender is not None else 0
    return min(
        fitting,
        key=lambda rule: (rule.id != own, rule.isp_id != isp_id, rule.priority, rule.id),
        default=BUILT_IN_SCENARIO,
    )


def next_delay(rule: RetryRule, *, attempt: int, jitter: float) -> float:
    """Return the seconds between attempt number `attempt` (from 1) and the next one.

    Fixed: the interval. Geometric: interval × exponent^(attempt−1). Random: evenly between the
    interval and interval × (1 + modifier). Never more than a day.
    """
    delay = max(0.0, rule.interval_s)
    if rule.type is RetryType.GEOMETRIC:
        delay = _grown(delay, max(1.0, rule.exponent), max(0, attempt - 1))
    elif rule.type is RetryType.RANDOM:
        delay *= 1 + max(0.0, rule.random_modifier) * jitter
    return min(delay, MAX_DELAY_S)


def _grown(delay: float, exponent: float, steps: int) -> float:
    try:
        return float(delay * exponent**steps)
    except OverflowError:
        return MAX_DELAY_S


def next_attempt_at(
    rule: RetryRule, *, attempt: int, now: datetime, expires_at: datetime, jitter: float
) -> datetime | None:
    """Return when to try again, or None once the message would have outlived its lifetime."""
    due_at = now + timedelta(seconds=next_delay(rule, attempt=attempt, jitter=jitter))
    return due_at if due_at < expires_at else None


def has_retries_left(rule: RetryRule, *, attempt: int) -> bool:
    """Whether attempt number `attempt` (from 1) may be followed by another one."""
    return attempt <= rule.retries
