"""Why somebody holds mail or ends it: one line, told to whoever wonders later.

Gives    MOST_REASON, read_reason
Raises   ReasonRefused: `code` for programs, its words for people
"""

from __future__ import annotations

from mailcore.errors import PostfleetError

MOST_REASON = 500


class ReasonRefused(PostfleetError):
    """A reason that cannot be kept."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def read_reason(given: object, *, is_needed: bool = True) -> str:
    """Return the reason, with single spaces; "" where none is needed and none was given."""
    said = given.strip() if isinstance(given, str) else ""
    if not said and is_needed:
        raise ReasonRefused("required", "must say why, for those who wonder later")
    if len(said) > MOST_REASON:
        detail = f"has {len(said)} characters; {MOST_REASON} is the most"
        raise ReasonRefused("too_long", detail)
    if not said.isprintable():
        raise ReasonRefused("invalid", "must be one line of printable characters")
    return " ".join(said.split())
