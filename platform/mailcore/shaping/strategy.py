"""What a strategy allows a path: rate, connections, messages per connection, spacing.

Gives    Rate, Grant, rate_of, connection_limit, messages_per_connection, average_speed,
         share_schedule
Takes    a compiled Strategy
Raises   nothing
Follows  reference/mta-model.md §6 (messages per interval = connections × messages × attempts)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` messages per `interval_s` on a path; 0 is unlimited."""

    count: int
    interval_s: float


@dataclass(frozen=True, slots=True)
class Grant:
    """A schedule: `count` messages, the first after `first_s`, then one each `interval_s`.

    `count` 0 means nothing now; ask again after `first_s`.
    """

    count: int
    first_s: float = 0.0
    interval_s: float = 0.0
