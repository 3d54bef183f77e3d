"""Times as the API writes and reads them.

Gives    rfc3339, read_time
Raises   ValueError that says what is wrong
Follows  RFC 3339; design.md section 9
"""

from __future__ import annotations

from datetime import UTC, datetime


def rfc3339(moment: datetime) -> str:
    """Return a time as the API writes it: UTC, milliseconds, Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_time(given: object) -> datetime:
    """Return the time that a program wrote; it must say its offset."""
    if not isinstance(given, str):
        raise ValueError("must be a time such as 2026-05-01T09:30:00Z")
    try:
        moment = datetime.fromisoformat(given)
    except ValueError as exc:
        raise ValueError(f"{given[:40]!r} is no time such as 2026-05-01T09:30:00Z") from exc
    if moment.tzinfo is None:
        raise ValueError("the time needs its offset, such as Z")
    try:
        return moment.astimezone(UTC)
    except OverflowError as exc:
        raise ValueError("this is no time we can keep") from exc
