"""Figures of the queue by sender, account, campaign, ISP and class, from the counts of lanes.

Gives    QueueGroups.totals -> GroupTotal; GroupBy
Takes    a libpq URL
Raises   StoreUnavailable; ValueError for a filter that lanes alone do not answer
Follows  design.md section 6: figures cost the same with a thousand rows as with a million

What a lane cannot tell is not guessed: it knows how many wait and when its first row is due, not
how many of them are due. So a group says how many wait in lanes where something is due, and how
many in lanes where nothing is; `unrouted` includes the parked rows of held domains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from mailcore.rowfilter import RowFilter
from mailio.ledger.lane_filter import LANES, lane_params
from mailio.ledger.pool import Profile, Session


class GroupBy(Enum):
    """What figures are grouped by; the value is the column of the lane."""

    SENDER = "sender_id"
    ACCOUNT = "account_id"
    CAMPAIGN = "campaign_id"
    ISP = "isp_id"
    MAIL_CLASS = "mail_class"


# A group that is not asked for is NULL, and one with all lanes.
_GROUPS = ", ".join(
    f"CASE WHEN '{one.value}' = ANY ($7::text[]) THEN l.{one.value} END AS g{place}"
    for place, one in enumerate(GroupBy)
)
_TOTALS = f"""
SELECT {_GROUPS},
       sum(l.waiting), sum(l.leased), sum(l.unknown),
       COALESCE(sum(l.waiting) FILTER (WHERE l.site = ''), 0),
       COALESCE(sum(l.waiting) FILTER (WHERE l.next_due_at <= statement_timestamp()), 0),
       NULLIF(min(l.next_due_at) FILTER (WHERE l.waiting > 0), 'infinity'), count(*)
  FROM ledger_lane l
 WHERE {LANES} AND (l.waiting > 0 OR l.leased > 0 OR l.unknown > 0)
 GROUP BY g0, g1, g2, g3, g4
 ORDER BY g0, g1, g2, g3, g4
"""  # noqa: S608 (constants of this package)


@dataclass(frozen=True, slots=True)
class GroupTotal:
    """The rows of lanes alike in what was asked for; None for what was not.

    `waiting` is `in_due_lanes` + `in_later_lanes`; `unrouted` is the part of `waiting` whose
    domains have no route yet or are held.
    """

    sender_id: int | None
    account_id: int | None
    campaign_id: int | None
    isp_id: int | None
    mail_class: int | None
    waiting: int
    leased: int
    unknown: int
    unrouted: int
    in_due_lanes: int
    next_due_at: datetime | None
    lanes: int

    @property
    def in_later_lanes(self) -> int:
        """Rows of lanes in which nothing is due yet."""
        return self.waiting - self.in_due_lanes

    @property
    def queued(self) -> int:
        """All rows that are owed a result."""
        return self.waiting + self.leased + self.unknown


class QueueGroups:
    """Reads for people and programs; never on the way to a delivery. Thread-safe."""

    def __init__(self, dsn: str, *, statement_timeout_s: float = 10.0) -> None:
        self._session = Session(
            dsn,
            role="groups",
            profile=Profile.CHORE,
            statements={"group_totals": _TOTALS},
            statement_timeout_s=statement_timeout_s,
        )

    def totals(
        self, group_by: Sequence[GroupBy], wanted: RowFilter | None = None
    ) -> Sequence[GroupTotal]:
        """Return figures by these groups (none: one figure, or nothing of an empty queue) over
        the lanes of a filter; its `states` do not matter, all are told."""
        if wanted is not None and not wanted.is_of_lanes:
            raise ValueError("domains, reasons, messages, recipients and ages are not of lanes")
        params = lane_params(wanted or RowFilter(everything=True))
        names = "{" + ",".join(one.value for one in group_by) + "}"
        return [_to_total(row) for row in self._session.call("group_totals", (*params, names))]

    def close(self) -> None:
        """Close the connection."""
        self._session.close()


def _to_total(row: tuple[Any, ...]) -> GroupTotal:
    return GroupTotal(
        sender_id=row[0],
        account_id=row[1],
        campaign_id=row[2],
        isp_id=row[3],
        mail_class=row[4],
        waiting=int(row[5]),
        leased=int(row[6]),
        unknown=int(row[7]),
        unrouted=int(row[8]),
        in_due_lanes=int(row[9]),
        next_due_at=row[10],
        lanes=int(row[11]),
    )
