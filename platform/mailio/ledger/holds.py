"""Place, release and list holds.

Gives    PgHolds; HoldRecord
Takes    a libpq URL
Raises   StoreUnavailable
Follows  design.md section 6. Whether a hold is in force is judged by the database's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mailcore.holds import Hold, HoldScope
from mailio.ledger.pool import Profile, Session

_IN_FORCE = "released_at IS NULL AND (ends_at IS NULL OR ends_at > statement_timestamp())"
_HOLD = "id, scope, target_id, target, reason, author, placed_at, ends_at"
_RECORD = f"{_HOLD}, released_at, released_by, {_IN_FORCE}"

_STATEMENTS = {
    "in_force": f"""
SELECT {_HOLD} FROM queue_hold WHERE {_IN_FORCE} ORDER BY id""",  # noqa: S608
    "place": f"""
INSERT INTO queue_hold (scope, target_id, target, reason, author, ends_at)
VALUES ($1::text, $2::int, $3::text, $4::text, $5::text, $6::timestamptz)
RETURNING {_RECORD}""",  # noqa: S608
    "release": f"""
UPDATE queue_hold SET released_at = statement_timestamp(), released_by = $2::text
 WHERE id = $1::bigint AND {_IN_FORCE}
RETURNING {_RECORD}""",  # noqa: S608
    "one": f"""
SELECT {_RECORD} FROM queue_hold WHERE id = $1::bigint""",  # noqa: S608
    "page": f"""
SELECT {_RECORD} FROM queue_hold
 WHERE id < $1::bigint AND (NOT $2::bool OR {_IN_FORCE})
 ORDER BY id DESC LIMIT $3::int""",  # noqa: S608
}
_AFTER_ALL = 1 << 62


@dataclass(frozen=True, slots=True)
class HoldRecord:
    """A hold and what became of it. Neither in force nor released: its end came."""

    hold: Hold
    released_at: datetime | None
    released_by: str
    is_in_force: bool


class PgHolds:
    """The holds of the whole queue. Thread-safe."""

    def __init__(self, dsn: str) -> None:
        self._session = Session(dsn, role="holds", profile=Profile.CHORE, statements=_STATEMENTS)

    def in_force(self) -> Sequence[Hold]:
        """Return the holds in force now, oldest first."""
        return [_to_hold(row) for row in self._session.call("in_force")]

    def place(
        self,
        scope: HoldScope,
        *,
        target_id: int = 0,
        target: str = "",
        reason: str,
        author: str,
        ends_at: datetime | None = None,
    ) -> HoldRecord:
        """Hold from now on; whoever places it announces it (mailio.holds.announce)."""
        params = (scope.value, target_id, target, reason, author, ends_at)
        return _to_record(self._session.call("place", params)[0])

    def release(self, hold_id: int, *, by: str) -> HoldRecord | None:
        """End a hold now; None if it is not in force, or was never placed."""
        found = self._session.call("release", (hold_id, by))
        return _to_record(found[0]) if found else None

    def one(self, hold_id: int) -> HoldRecord | None:
        """Return a hold, whatever became of it."""
        found = self._session.call("one", (hold_id,))
        return _to_record(found[0]) if found else None

    def page(
        self, *, before: int = 0, limit: int = 100, only_in_force: bool = False
    ) -> Sequence[HoldRecord]:
        """Return holds, the newest first; those below the number `before` if one is given."""
        params = (before or _AFTER_ALL, only_in_force, limit)
        return [_to_record(row) for row in self._session.call("page", params)]

    def close(self) -> None:
        """Close the connection."""
        self._session.close()


def _to_hold(row: tuple[Any, ...]) -> Hold:
    return Hold(
        id=row[0],
        scope=HoldScope(row[1]),
        target_id=row[2],
        target=row[3],
        reason=row[4],
        author=row[5],
        placed_at=row[6],
        ends_at=row[7],
    )


def _to_record(row: tuple[Any, ...]) -> HoldRecord:
    return HoldRecord(_to_hold(row[:8]), row[8], row[9], bool(row[10]))
