"""What the panel and the API show of the queue: figures by lane, and the rows of a message.

Gives    LedgerFigures; LaneTotal, QueueCounts, OldestAges, MessageRow
Takes    a libpq URL
Raises   StoreUnavailable

Figures come from the lanes' counts, so they cost the same with a thousand rows as with a million.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from mailcore.outcome import MailClass, RowState, WaitReason
from mailio.ledger.pool import Profile, Session

_COUNTS = """
SELECT COALESCE(sum(waiting), 0), COALESCE(sum(leased), 0), COALESCE(sum(unknown), 0),
       COALESCE(sum(waiting) FILTER (WHERE site = ''), 0), count(*)
  FROM ledger_lane
"""

_TOTALS = """
SELECT l.sender_id, l.account_id, l.campaign_id,
       COALESCE((SELECT g.label FROM campaign g WHERE g.id = l.campaign_id), ''),
       l.mail_class, l.isp_id, sum(l.waiting), sum(l.leased), sum(l.unknown),
       NULLIF(min(l.next_due_at), 'infinity')
  FROM ledger_lane l
 WHERE (l.waiting > 0 OR l.leased > 0 OR l.unknown > 0)
   AND ($1::int IS NULL OR l.sender_id = $1::int)
   AND ($2::int IS NULL OR l.account_id = $2::int)
 GROUP BY l.sender_id, l.account_id, l.campaign_id, l.mail_class, l.isp_id
 ORDER BY l.sender_id, l.account_id, l.campaign_id, l.mail_class, l.isp_id
"""

_OF_MESSAGE = """
SELECT r.id, r.recipient_no, r.recipient, r.state, r.reason, r.due_at, r.accepted_at, r.expires_at,
       r.attempt, r.claim_no, r.last_reply, r.pinned_source_id, l.account_id, l.sender_id,
       l.campaign_id, COALESCE((SELECT g.label FROM campaign g WHERE g.id = l.campaign_id), ''),
       l.mail_class, l.site, l.isp_id
  FROM ledger_row r JOIN ledger_lane l ON l.id = r.lane_id
 WHERE r.message_id = $1::uuid
 ORDER BY r.recipient_no
"""

_RECIPIENTS = """
SELECT r.recipient
  FROM ledger_row r JOIN ledger_lane l ON l.id = r.lane_id JOIN campaign g ON g.id = l.campaign_id
 WHERE g.label = $1::text
"""

# The first row by due time of each lane, through the claim's index.
_OLDEST = """
SELECT COALESCE(extract(epoch FROM statement_timestamp() - min(f.due_at)), 0)::float8,
       COALESCE(extract(epoch FROM statement_timestamp() - min(f.due_at)
                                       FILTER (WHERE l.site = '')), 0)::float8,
       COALESCE(extract(epoch FROM statement_timestamp() - (
           SELECT min(i.heartbeat_at) FROM ledger_incarnation i
            WHERE i.ended_at IS NULL AND i.heartbeat_at > '-infinity')), 0)::float8
  FROM ledger_lane l
 CROSS JOIN LATERAL (SELECT r.due_at FROM ledger_row r
                      WHERE r.lane_id = l.id AND r.state = 0
                      ORDER BY r.due_at, r.id LIMIT 1) AS f
 WHERE l.waiting > 0 AND f.due_at <= statement_timestamp()
"""

_STATEMENTS = {
    "counts": _COUNTS,
    "totals": _TOTALS,
    "rows_of_message": _OF_MESSAGE,
    "recipients_of_campaign": _RECIPIENTS,
    "oldest": _OLDEST,
}


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """Rows by state; `unrouted` are part of `waiting`."""

    waiting: int
    leased: int
    unknown: int
    unrouted: int
    lanes: int

    @property
    def queued(self) -> int:
        """All rows that are owed a result."""
        return self.waiting + self.leased + self.unknown


@dataclass(frozen=True, slots=True)
class LaneTotal:
    """The rows of all lanes alike in sender, account, campaign, class and ISP."""

    sender_id: int
    account_id: int
    campaign_id: int
    campaign: str
    mail_class: MailClass
    isp_id: int
    waiting: int
    leased: int
    unknown: int
    next_due_at: datetime | None


@dataclass(frozen=True, slots=True)
class OldestAges:
    """How long the longest-due row, the longest-due unrouted row and the most silent process
    have waited, in seconds; 0 when there is none."""

    due_s: float
    unrouted_s: float
    heartbeat_s: float


@dataclass(frozen=True, slots=True)
class MessageRow:
    """One recipient of a message that is still owed a result."""

    row_id: int
    recipient_no: int
    recipient: str
    state: RowState
    reason: WaitReason
    due_at: datetime
    accepted_at: datetime
    expires_at: datetime
    attempt: int
    claim_no: int
    last_reply: str
    pinned_source_id: int | None
    account_id: int
    sender_id: int
    campaign_id: int
    campaign: str
    mail_class: MailClass
    site: str
    isp_id: int


class LedgerFigures:
    """Reads for people and programs; never on the way to a delivery. Thread-safe."""

    def __init__(self, dsn: str, *, statement_timeout_s: float = 10.0) -> None:
        self._session = Session(
            dsn,
            role="figures",
            profile=Profile.CHORE,
            statements=_STATEMENTS,
            statement_timeout_s=statement_timeout_s,
        )

    def counts(self) -> QueueCounts:
        """Return the rows of the whole queue by state."""
        return QueueCounts(*(int(value) for value in self._session.call("counts")[0]))

    def totals(
        self, *, sender_id: int | None = None, account_id: int | None = None
    ) -> Sequence[LaneTotal]:
        """Return figures by sender, account, campaign, class and ISP."""
        return [_to_total(row) for row in self._session.call("totals", (sender_id, account_id))]

    def oldest_ages(self) -> OldestAges:
        """Return what has waited longest."""
        return OldestAges(*(float(value) for value in self._session.call("oldest")[0]))

    def rows_of_message(self, message_id: UUID) -> Sequence[MessageRow]:
        """Return the recipients of a message that are still in the queue."""
        found = self._session.call("rows_of_message", (str(message_id),))
        return [_to_message_row(row) for row in found]

    def recipients_of_campaign(self, campaign: str) -> Sequence[str]:
        """Return who is still owed a result. As long as the campaign's queue: for small ones."""
        return [str(row[0]) for row in self._session.call("recipients_of_campaign", (campaign,))]

    def close(self) -> None:
        """Close the connection."""
        self._session.close()


def _to_total(row: tuple[Any, ...]) -> LaneTotal:
    return LaneTotal(
        sender_id=row[0],
        account_id=row[1],
        campaign_id=row[2],
        campaign=row[3],
        mail_class=MailClass(row[4]),
        isp_id=row[5],
        waiting=int(row[6]),
        leased=int(row[7]),
        unknown=int(row[8]),
        next_due_at=row[9],
    )


def _to_message_row(row: tuple[Any, ...]) -> MessageRow:
    return MessageRow(
        row_id=row[0],
        recipient_no=row[1],
        recipient=row[2],
        state=RowState(row[3]),
        reason=WaitReason(row[4]),
        due_at=row[5],
        accepted_at=row[6],
        expires_at=row[7],
        attempt=row[8],
        claim_no=row[9],
        last_reply=row[10],
        pinned_source_id=row[11],
        account_id=row[12],
        sender_id=row[13],
        campaign_id=row[14],
        campaign=row[15],
        mail_class=MailClass(row[16]),
        site=row[17],
        isp_id=row[18],
    )
