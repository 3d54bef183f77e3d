"""Put addresses on stop lists.

Gives    PgStopList, which implements mailcore.ports.StopLists
Takes    a libpq URL, entries
Raises   StoreUnavailable
Follows  design.md section 2: a unique constraint says who is on a list, so a repeat adds nobody
"""

from __future__ import annotations

from collections.abc import Sequence

from mailcore.stoplist import StopEntry
from mailio.ledger.pool import Session

# An entry that is there stays as it is: its reason is the first one, and an operator may have
# given it an end. Ordered, so that two writers never wait for each other in a circle.
_ADD = """
INSERT INTO stop_entry (account_id, recipient_hash, recipient, reason, detail)
SELECT * FROM unnest(%s::int[], %s::text[], %s::text[], %s::text[], %s::text[])
    AS e (account_id, recipient_hash, recipient, reason, detail)
 ORDER BY recipient_hash, account_id
ON CONFLICT (recipient_hash, account_id) DO NOTHING
RETURNING id
"""


class PgStopList:
    """The stop lists of all accounts. Thread-safe."""

    def __init__(self, dsn: str) -> None:
        self._session = Session(dsn, role="stop-list")

    def add(self, entries: Sequence[StopEntry]) -> int:
        """Add those that are not there; return how many that were."""
        if not entries:
            return 0
        columns = (
            [entry.account_id for entry in entries],
            [entry.recipient_hash for entry in entries],
            [entry.recipient for entry in entries],
            [entry.cause.value for entry in entries],
            [entry.detail for entry in entries],
        )
        return len(self._session.run(_ADD, columns))

    def close(self) -> None:
        """Close the connection."""
        self._session.close()
