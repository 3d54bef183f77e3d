"""The holds in force, as the data plane reads them. The control plane places and releases them.

Gives    PgHolds
Takes    a libpq URL
Raises   StoreUnavailable
Follows  design.md section 6. Whether a hold is in force is judged by the database's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mailcore.holds import Hold, HoldScope
from mailio.ledger.pool import Profile, Session

_IN_FORCE = """
SELECT id, scope, target_id, target, reason, author, placed_at, ends_at
  FROM queue_hold
 WHERE released_at IS NULL AND (ends_at IS NULL OR ends_at > statement_timestamp())
 ORDER BY id
"""
_SCOPES = {scope.value: scope for scope in HoldScope}


class PgHolds:
    """The holds of the whole queue. Thread-safe."""

    def __init__(self, dsn: str) -> None:
        self._session = Session(
            dsn, role="holds", profile=Profile.CHORE, statements={"in_force": _IN_FORCE}
        )

    def in_force(self) -> Sequence[Hold]:
        """Return the holds in force now, oldest first."""
        return [_to_hold(row) for row in self._session.call("in_force")]

    def close(self) -> None:
        """Close the connection."""
        self._session.close()


def _to_hold(row: tuple[Any, ...]) -> Hold:
    return Hold(
        id=row[0],
        # A newer release has scopes we do not know. Who cannot tell what is held sends nothing.
        scope=_SCOPES.get(row[1], HoldScope.EVERYTHING),
        target_id=row[2],
        target=row[3],
        reason=row[4],
        author=row[5],
        placed_at=row[6],
        ends_at=row[7],
    )
