"""When a deferred message is tried again, and when no more.

Gives    next_delay, next_attempt_at, has_retries_left
Takes    a compiled RetryRule, the number of the attempt that failed, a draw from [0, 1)
Raises   nothing
Follows  reference/mta-model.md §7.1 (fixed, geometric, random), RFC 5321 §4.5.4.1
"""

from __future__ import annotations

from datetime import datetime, timedelta

from mailcore.policy.model import RetryRule, RetryType

MAX_DELAY_S = 86400.0


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
