"""Read JSON values that somebody else wrote, and note all that is wrong with them.

Gives    Reader: typed reads of one object's members; read_time
Takes    what json.loads gave
Raises   nothing until `finish`, then SubmissionRefused with every problem that was noted
Follows  RFC 6901 (pointers), RFC 3339 (times)
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from mailcore.errors import Problem, SubmissionRefused

_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?\d*(Z|z|[+-]\d\d:\d\d)\Z", re.ASCII
)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
MAX_PROBLEMS = 100


def escape(name: str) -> str:
    """Return a member's name as a pointer's token."""
    return name.replace("~", "~0").replace("/", "~1")


def read_time(text: str) -> datetime | None:
    """Return an RFC 3339 time with its offset, in UTC; None for anything else."""
    match = _TIME.match(text)
    if match is None:
        return None
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


class Reader:
    """The problems of one offer, and the reading that finds them. `pointer` is where it lies."""

    def __init__(self, pointer: str) -> None:
        self.pointer = pointer
        self.problems: list[Problem] = []

    def note(self, path: str, code: str, detail: str) -> None:
        """Note a problem at a path below the offer."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(self.pointer + path, code, detail))

    def finish(self) -> None:
        """Raise if anything was noted."""
        if self.problems:
            raise SubmissionRefused(self.problems)

    def mapping(self, value: object, path: str, known: Collection[str]) -> Mapping[str, Any]:
        """Return an object, after noting members nobody knows."""
        if not isinstance(value, dict):
            self.note(path, "type", "an object is needed here")
            return {}
        for name in value:
            if name not in known:
                shown = name.encode("ascii", "backslashreplace").decode("ascii")[:80]
                self.note(f"{path}/{escape(shown)}", "unknown_field", f"{shown!r} is no field")
        return value

    def sequence(self, value: object, path: str, *, limit: int) -> list[Any]:
        """Return a list; nothing stands for an empty one."""
        if value is None:
            return []
        if not isinstance(value, list):
            self.note(path, "type", "a list is needed here")
            return []
        if len(value) > limit:
            self.note(path, "too_many", f"at most {limit} are taken here")
            return []
        return value

    def text(
        self, value: object, path: str, *, limit: int, is_line: bool = True, default: str = ""
    ) -> str:
        """Return a string. One that goes into a line of a header may hold no line end."""
        if value is None:
            return default
        if not isinstance(value, str):
            self.note(path, "type", "a string is needed here")
        elif len(value) > limit:
            self.note(path, "too_long", f"at most {limit} characters are taken here")
        elif not value.isascii() and _SURROGATE.search(value):
            self.note(path, "charset", "the string holds half a character (a lone surrogate)")
        elif is_line and (found := _CONTROL.search(value)):
            detail = f"a control character (U+{ord(found[0]):04X}) may not stand here"
            self.note(path, "control_character", detail)
        elif "\0" in value:
            self.note(path, "nul", "the text contains a NUL character")
        else:
            return value
        return default

    def flag(self, value: object, path: str) -> bool:
        """Return a boolean."""
        if value is None or isinstance(value, bool):
            return bool(value)
        self.note(path, "type", "true or false is needed here")
        return False

    def time(self, value: object, path: str) -> datetime | None:
        """Return an RFC 3339 time."""
        text = self.text(value, path, limit=64)
        if not text:
            if value == "":
                self.note(path, "time", "an RFC 3339 time is needed here")
            return None
        found = read_time(text)
        if found is None:
            detail = f"{text!r} is no RFC 3339 time with an offset, as 2026-01-31T09:30:00Z"
            self.note(path, "time", detail)
        return found
