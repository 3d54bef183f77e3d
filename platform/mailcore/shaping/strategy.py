"""What a strategy allows a path: rate, connections, messages per connection, spacing.

Gives    Rate, Grant, rate_of, slowest, spacing_s, class_limit, Stream, streams
Takes    a compiled Strategy, or a rate and the class of the mail
Raises   nothing
Follows  reference/mta-model.md §6 (messages per interval = connections × messages × attempts);
         design.md section 4: schedules 1 % under the rate, never a burst, and what is kept for
         priority mail

A part of a strategy that is 0 means "no limit of that kind", and makes the rate unlimited.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from mailcore.outcome import MailClass
from mailcore.policy.model import Strategy

UNDER_RATE = 0.99
PRIORITY_SHARE = 0.1
SMALLEST_SHARED_RATE = 10


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` messages per `interval_s` on a path; 0 is unlimited."""

    count: int
    interval_s: float

    @property
    def is_unlimited(self) -> bool:
        """Whether nothing needs to be asked."""
        return self.count <= 0 or self.interval_s <= 0


@dataclass(frozen=True, slots=True)
class Grant:
    """A schedule: `count` messages, the first after `first_s`, then one each `interval_s`.

    `count` 0 means nothing now; ask again after `first_s`. `ticket` names the grant when its
    unused part is given back.
    """

    count: int
    first_s: float = 0.0
    interval_s: float = 0.0
    ticket: str = ""


@dataclass(frozen=True, slots=True)
class Stream:
    """One evenly spaced sequence of sends on a path. The streams of a path never add up to more
    than its rate."""

    name: str
    interval_s: float


def rate_of(strategy: Strategy) -> Rate:
    """Return the rate of one source to one site."""
    return Rate(strategy.messages_per_interval, strategy.interval_s)


def slowest(strategies: Iterable[Strategy]) -> Strategy:
    """Return the strictest of the strategies that meet on one path: the lowest rate, then the
    fewest connections, then the lowest id."""

    def speed(strategy: Strategy) -> tuple[float, float, int]:
        rate = rate_of(strategy)
        per_second = inf if rate.is_unlimited else rate.count / rate.interval_s
        return per_second, strategy.connections or inf, strategy.id

    return min(strategies, key=speed)


def spacing_s(rate: Rate) -> float:
    """Return the time between two messages, 1 % longer than the rate asks; 0 when unlimited."""
    if rate.is_unlimited:
        return 0.0
    return rate.interval_s / (rate.count * UNDER_RATE)


def class_limit(limit: int, mail_class: MailClass) -> int:
    """Return how many slots of a limit one class may hold; one of two or more is priority's."""
    if mail_class is MailClass.PRIORITY or limit < 2:
        return limit
    return limit - 1


def streams(rate: Rate, mail_class: MailClass) -> tuple[Stream, ...]:
    """Return the streams a class may draw from, the preferred first; none when unlimited.

    A tenth of a rate is a stream of priority's own, and priority may use the common stream while
    that is idle. Two streams can each put one message at both ends of an interval, so a rate that
    is shared gives up one message to stay within its count. A tenth of less than ten messages is
    no message: such a rate stays one common stream.
    """
    if rate.is_unlimited:
        return ()
    if rate.count < SMALLEST_SHARED_RATE:
        return (Stream("all", spacing_s(rate)),)
    shared = spacing_s(Rate(rate.count - 1, rate.interval_s))
    common = Stream("all", shared / (1 - PRIORITY_SHARE))
    if mail_class is not MailClass.PRIORITY:
        return (common,)
    return (common, Stream("priority", shared / PRIORITY_SHARE))
