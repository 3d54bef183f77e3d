"""Which rows of the queue an operator means: the filter of purge, expire, retry and count.

Gives    RowFilter: parse (what a program or a job's arguments say), to_dict, words; UNDO_KEPT_S
Raises   FilterError, which names the field and the reason
Follows  design.md section 6 (queue verbs); style.md rule 4: parsed at the border

Values of one field are alternatives, fields are all to be met. A filter that names nothing means
the whole queue, and has to say so: `{"everything": true}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self
from uuid import UUID

from mailcore.address import parse_domain
from mailcore.errors import PostfleetError
from mailcore.outcome import MailClass, RowState, WaitReason

MOST_VALUES = 500
# The longest address there can be has 320 characters, the longest name of a site fewer.
MOST_TEXT = 320
# What stands for lanes that have no site yet, or rows of a held domain: no host has such a name.
UNROUTED = "unrouted"
_MOST_SHOWN = 80
# How long a purge can be undone. Upkeep deletes older records; their content goes with them.
UNDO_KEPT_S = 86_400.0
_NUMBERS = ("senders", "accounts", "campaigns", "isps")
_STATES = {RowState.WAITING.name.lower(): RowState.WAITING, "unknown": RowState.UNKNOWN}
_CLASSES = {each.word: each for each in MailClass}
_REASONS = {each.value: each for each in WaitReason}


class FilterError(PostfleetError):
    """A filter that cannot be meant; `field` names the member at fault."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Rows in all these respects; an empty tuple or None asks for nothing in that respect.

    `older_than_s` is the least age since acceptance. Rows that a worker holds are never meant.
    The site "" is that of unrouted lanes; outside it is called `unrouted`.
    """

    everything: bool = False
    senders: tuple[int, ...] = ()
    accounts: tuple[int, ...] = ()
    campaigns: tuple[int, ...] = ()
    isps: tuple[int, ...] = ()
    sites: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    classes: tuple[MailClass, ...] = ()
    states: tuple[RowState, ...] = (RowState.WAITING,)
    reasons: tuple[WaitReason, ...] = ()
    messages: tuple[UUID, ...] = ()
    recipients: tuple[str, ...] = ()
    older_than_s: float = 0.0

    @property
    def is_of_lanes(self) -> bool:
        """Whether lanes alone tell it, so that their counts answer how many rows are meant."""
        return not (
            self.domains or self.reasons or self.messages or self.recipients or self.older_than_s
        )

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Self:
        """Read what a program sent, or what `to_dict` gave; FilterError for anything unclear."""
        unknown = sorted(set(given) - {each.name for each in fields(cls)})
        if unknown:
            raise FilterError(unknown[0], "there is no such member of a filter")
        wanted: dict[str, Any] = {}
        for name in _NUMBERS:
            wanted[name] = tuple(_number(name, each) for each in _list(given, name))
        wanted["sites"] = tuple(_site(each) for each in _list(given, "sites"))
        wanted["domains"] = tuple(_domain(each) for each in _list(given, "domains"))
        wanted["recipients"] = tuple(
            _text("recipients", each) for each in _list(given, "recipients")
        )
        wanted["classes"] = tuple(_word("classes", _CLASSES, x) for x in _list(given, "classes"))
        wanted["reasons"] = tuple(_word("reasons", _REASONS, x) for x in _list(given, "reasons"))
        wanted["messages"] = tuple(_uuid(each) for each in _list(given, "messages"))
        if "states" in given:
            states = tuple(_word("states", _STATES, x) for x in _list(given, "states"))
            wanted["states"] = states or (RowState.WAITING,)
        wanted["older_than_s"] = _seconds(given.get("older_than_s", 0))
        everything = given.get("everything", False)
        if not isinstance(everything, bool):
            raise FilterError("everything", "must be true or false")
        found = cls(everything=everything, **wanted)
        narrows = any(value for name, value in wanted.items() if name != "states")
        if not narrows and not everything:
            raise FilterError(
                "", 'a filter that names nothing means the whole queue: say {"everything": true}'
            )
        if narrows and everything:
            raise FilterError("everything", "is no filter beside other members")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can keep it; `parse` reads it again."""
        kept: dict[str, Any] = {
            "everything": self.everything,
            "classes": [each.word for each in self.classes],
            "states": [each.name.lower() for each in self.states],
            "reasons": [each.value for each in self.reasons],
            "messages": [str(each) for each in self.messages],
        }
        for name in (*_NUMBERS, "domains", "recipients"):
            kept[name] = list(getattr(self, name))
        kept["sites"] = [each or UNROUTED for each in self.sites]
        kept["older_than_s"] = self.older_than_s
        return {name: value for name, value in kept.items() if value}

    def words(self) -> str:
        """Return it for people, such as `domains accepta.test; older_than_s 60`."""
        shown = self.to_dict()
        if shown.get("states") == ["waiting"]:
            del shown["states"]
        return "; ".join(
            f"{name} {', '.join(map(str, value)) if isinstance(value, list) else value}"
            if value is not True
            else name
            for name, value in shown.items()
        )


def _shown(value: Any) -> str:
    return repr(value)[:_MOST_SHOWN]


def _list(given: Mapping[str, Any], name: str) -> list[Any]:
    value = given.get(name, [])
    if not isinstance(value, list | tuple):
        raise FilterError(name, "must be a list")
    if len(value) > MOST_VALUES:
        raise FilterError(name, f"has {len(value)} values; {MOST_VALUES} is the most")
    return list(value)


def _number(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 31:
        raise FilterError(name, f"{_shown(value)} is no ID")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or "\x00" in value:
        raise FilterError(name, f"{_shown(value)} is no text that could be meant")
    if len(value) > MOST_TEXT:
        raise FilterError(name, f"a text of {len(value)} characters; {MOST_TEXT} is the most")
    return value.strip()


def _site(value: Any) -> str:
    name = _text("sites", value)
    return "" if name == UNROUTED else name


def _domain(value: Any) -> str:
    try:
        return parse_domain(_text("domains", value))
    except PostfleetError as exc:
        raise FilterError("domains", str(exc)) from exc


def _uuid(value: Any) -> UUID:
    try:
        return UUID(_text("messages", value))
    except ValueError as exc:
        raise FilterError("messages", f"{_shown(value)} is no message ID") from exc


def _word(name: str, words: Mapping[str, Any], value: Any) -> Any:
    if not isinstance(value, str) or value not in words:
        raise FilterError(name, f"{_shown(value)} is none of {', '.join(words)}")
    return words[value]


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise FilterError("older_than_s", f"{_shown(value)} is no number of seconds")
    return float(value)
