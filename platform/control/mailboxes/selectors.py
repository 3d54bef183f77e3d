"""What was read of a mailbox: the last reading, and what all of it came to.

Gives    reading_of -> LastReading, None before the first; tally_of -> Tally rows, most first
Takes    the number of a mailbox; the pollers' own tables
Raises   nothing of its own
Follows  docs/inbound.md: days are of UTC, as the pollers count them
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import connection

_READING = """
SELECT node, NULLIF(begun_at, '-infinity'), ended_at, NULLIF(next_at, '-infinity'), read_count,
       error, begun_at > COALESCE(ended_at, '-infinity')
  FROM mailbox_poll WHERE mailbox_id = %s
"""
_TALLY = """
SELECT kind, fate,
       COALESCE(sum(messages) FILTER (WHERE day >= today), 0)::bigint,
       COALESCE(sum(messages) FILTER (WHERE day > today - 7), 0)::bigint,
       sum(messages)::bigint
  FROM mailbox_tally, (SELECT (statement_timestamp() AT TIME ZONE 'UTC')::date AS today) AS now
 WHERE mailbox_id = %s GROUP BY kind, fate ORDER BY sum(messages) DESC, kind, fate
"""


@dataclass(frozen=True, slots=True)
class LastReading:
    """How the last turn over a mailbox went. `is_under_way` also holds for one that was killed."""

    node: str
    begun_at: datetime | None
    ended_at: datetime | None
    next_at: datetime | None
    messages: int
    error: str
    is_under_way: bool


@dataclass(frozen=True, slots=True)
class Tally:
    """How many messages of a kind met a fate: today, in seven days with today, ever."""

    kind: str
    fate: str
    today: int
    week: int
    ever: int


def reading_of(mailbox_id: int) -> LastReading | None:
    """Return how the last reading went."""
    with connection.cursor() as cursor:
        cursor.execute(_READING, [mailbox_id])
        row = cursor.fetchone()
    return None if row is None else LastReading(*row)


def tally_of(mailbox_id: int) -> Sequence[Tally]:
    """Return what was read of a mailbox."""
    with connection.cursor() as cursor:
        cursor.execute(_TALLY, [mailbox_id])
        return [Tally(*row) for row in cursor.fetchall()]
