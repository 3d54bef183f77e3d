"""Fill the ledger with queued rows, in the shape that the acceptor makes.

Gives    Filling: prepare(), fill(); the campaigns, the places
Takes    a Running fleet whose first messages to each place were routed; a held one is the pattern
Raises   AssertionError when the pattern is not there

Half of the rows are for an ISP that is held, 30 % were deferred and are due in an hour, 20 % are
due at a site that takes one message a second. Of each kind half are of the campaign that is
purged, a fifth of the one that is expired by hand, a fifth of the one whose lifetime ends, and the
rest of the stream's own. Content is a thousand messages, written through the spool's port.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg2

from mailcore.envelope import ContentRef
from mailio.ledger.delivery_sql import APPLY_DELTA
from mailio.spool.opening import open_spool
from tests.support.fleet import Running

HELD, DEFERRED, LIMITED = "accepta.test", "certa.test", "throtta.test"
PURGED, BY_HAND, ENDING, REST = "purged", "by-hand", "ending", "stream"
# By the last digit of a row's number, and by the last but one.
CAMPAIGNS = (PURGED, BY_HAND, PURGED, BY_HAND, PURGED, ENDING, PURGED, ENDING, PURGED, REST)
PLACES = (HELD,) * 5 + (DEFERRED,) * 3 + (LIMITED,) * 2
CHUNK = 20_000
CONTENTS = 1000

_PATTERN = """
SELECT l.sender_id, l.account_id, l.mail_class, l.tls_need, r.reverse_path, r.header_from,
       r.custom, r.dsn
  FROM ledger_row r JOIN ledger_lane l ON l.id = r.lane_id
 WHERE starts_with(r.recipient, 'pattern') AND l.site <> ''
"""

_LANE = """
INSERT INTO ledger_lane AS l (site, sender_id, account_id, campaign_id, mail_class, tls_need,
                              isp_id)
SELECT o.site, %s, %s, %s, %s, %s, o.isp_id FROM ledger_route o WHERE o.domain = %s
ON CONFLICT (site, sender_id, account_id, campaign_id, mail_class, tls_need)
DO UPDATE SET used_at = statement_timestamp()
RETURNING id
"""

# Message ids rise with time, as UUIDv7 do. `wanted`: the campaigns of which rows are made.
_FILL = f"""
WITH input AS MATERIALIZED (
    SELECT n, mod(n, 10) AS campaign, mod(n / 10, 10) AS place,
           mod(n, %(contents)s) + 1 AS content,
           md5(n::text || %(salt)s) AS digest
      FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
), stored AS (
    INSERT INTO ledger_row (lane_id, recipient_no, attempt, claim_no, due_at, expires_at,
                            message_id, content_segment, content_offset, content_length,
                            content_crc, recipient, reverse_path, header_from, message_id_header,
                            custom, dsn, reason, last_reply)
    SELECT (%(lanes)s::bigint[])[1 + place * 10 + campaign], 0, is_late::int, is_late::int,
           statement_timestamp() + CASE WHEN is_late THEN interval '1 hour' ELSE '0' END
                                 + make_interval(secs => mod(n, 600) * is_late::int),
           CASE WHEN campaign = ANY (%(ending)s) THEN to_timestamp(%(ends_at)s)
                ELSE statement_timestamp() + interval '3 days' END,
           (lpad(to_hex((extract(epoch FROM statement_timestamp()) * 1000)::bigint), 12, '0')
            || '7' || substr(digest, 1, 3) || '8' || substr(digest, 4, 15))::uuid,
           (%(segments)s::bigint[])[content], (%(offsets)s::bigint[])[content],
           (%(lengths)s::int[])[content], (%(crcs)s::bigint[])[content],
           'q' || n || '@' || (%(domains)s::text[])[1 + place], %(reverse_path)s, %(header_from)s,
           '<' || digest || '@sender.test>', %(custom)s, %(dsn)s,
           CASE WHEN is_late THEN 'retry' ELSE 'new' END,
           CASE WHEN is_late THEN '451 4.7.1 Try again later' ELSE '' END
      FROM input, LATERAL (SELECT place BETWEEN 5 AND 7 AS is_late) AS l
     WHERE campaign = ANY (%(wanted)s)
    RETURNING lane_id, due_at
), delta AS MATERIALIZED (
    SELECT lane_id, count(*) AS waiting, 0 AS leased, 0 AS unknown, min(due_at) AS due_at
      FROM stored GROUP BY lane_id
), {APPLY_DELTA}
SELECT count(*) FROM stored
"""  # noqa: S608 (constants of ours)


@dataclass
class Filling:
    """One fleet's ledger. `ends_at`: when the lifetime of the ending campaign is over."""

    running: Running
    ends_at: float = 0.0
    next_number: int = 0

    def __post_init__(self) -> None:
        self._database = psycopg2.connect(self.running.settings.database_url)
        self._database.autocommit = True

    def prepare(self) -> None:
        """Write content, and make campaigns and lanes."""
        spool = open_spool(self.running.settings)
        try:
            self.refs: Sequence[ContentRef] = spool.append([_content(n) for n in range(CONTENTS)])
        finally:
            spool.close()
        found = self.running.query(_PATTERN)
        assert found, "no held message was routed"
        sender, account, mail_class, tls_need, *self.envelope = found[0]
        for label in dict.fromkeys(CAMPAIGNS):
            self.running.query(
                "INSERT INTO campaign (account_id, label) VALUES (%s, %s) ON CONFLICT DO NOTHING",
                *(account, label),
            )
        self.campaigns = {
            str(label): int(number)
            for number, label in self.running.query("SELECT id, label FROM campaign")
        }
        self.lanes = [
            int(
                self.running.one(
                    _LANE, sender, account, self.campaigns[label], mail_class, tls_need, domain
                )
            )
            for domain in PLACES
            for label in CAMPAIGNS
        ]

    def fill(self, rows: int, labels: Sequence[str] = CAMPAIGNS) -> None:
        """Add so many rows of these campaigns."""
        wanted = [place for place, label in enumerate(CAMPAIGNS) if label in labels]
        left = rows
        while left > 0:
            # A whole number of tens, so that all kinds are made in their shares.
            count = min(-(-left // len(wanted)) * 10, CHUNK)
            with self._database.cursor() as cursor:
                cursor.execute(_FILL, self._values(count, wanted))
                ((made,),) = cursor.fetchall()
            left -= int(made)
            self.next_number += count

    def queued(self, label: str = "") -> int:
        """Return how many rows of a campaign, or of all, are queued, as lanes tell."""
        sums = "SELECT COALESCE(sum(waiting + leased + unknown), 0) FROM ledger_lane"
        if not label:
            return int(self.running.one(sums))
        return int(self.running.one(f"{sums} WHERE campaign_id = %s", self.campaigns[label]))

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    def _values(self, count: int, wanted: Sequence[int]) -> dict[str, Any]:
        reverse_path, header_from, custom, dsn = self.envelope
        return {
            "first": self.next_number,
            "last": self.next_number + count - 1,
            "contents": len(self.refs),
            "salt": str(self.ends_at),
            "lanes": self.lanes,
            "wanted": list(wanted),
            "ending": [place for place, label in enumerate(CAMPAIGNS) if label == ENDING],
            "ends_at": self.ends_at,
            "segments": [ref.segment for ref in self.refs],
            "offsets": [ref.offset for ref in self.refs],
            "lengths": [ref.length for ref in self.refs],
            "crcs": [ref.crc for ref in self.refs],
            "domains": list(PLACES),
            "reverse_path": reverse_path,
            "header_from": header_from,
            "custom": custom,
            "dsn": dsn,
        }


def _content(number: int) -> bytes:
    lines = (
        "From: news@sender.test",
        "To: reader@sender.test",
        f"Subject: News number {number}",
        "Date: Mon, 01 Jun 2026 12:00:00 +0000",
        f"Message-ID: <filled-{number}@sender.test>",
        f"X-Lab-Id: filled-{number}",
        "MIME-Version: 1.0",
        "",
        *["a letter of news about prices and plans"] * 50,
        "",
    )
    return "\r\n".join(lines).encode()
