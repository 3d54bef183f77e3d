"""Go through the queue along its indexes, step by step, and say which rows a filter means.

Gives    Meant, Position (where a step ends and the next begins), Part, Seen; look, meant_params
Takes    the executor of a transaction whose session prepared verbs_sql.STATEMENTS
Raises   what the executor raises

Nothing is looked at twice in one turn and nothing is locked: a row may be gone, or with a worker,
by the time somebody wants it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any, Self

from mailcore.outcome import RowState
from mailcore.rowfilter import RowFilter
from mailio.ledger import arrays
from mailio.ledger.lane_filter import lane_params, texts_or_none
from mailio.ledger.pool import Execute, Row

_MESSAGES_A_STEP = 20
_FIRST = "-infinity"
_MARKS = ",".join(["%s"] * 11)


class Part(Enum):
    """A way through the queue, each along an index of its own."""

    MESSAGES = "messages"
    WAITING = "waiting"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Meant:
    """The rows a verb is about: those of a filter that were accepted by a moment.

    `is_late`: only those a retry can make due sooner. `turns`: how often the queue is gone
    through; a second time meets what had been with a worker or on its way to another lane.
    """

    filter: RowFilter
    accepted_before: datetime
    is_late: bool = False
    turns: int = 1

    @property
    def parts(self) -> tuple[Part, ...]:
        """The ways to go, in order."""
        if self.filter.messages:
            return (Part.MESSAGES,)
        states = {RowState.WAITING: Part.WAITING, RowState.UNKNOWN: Part.UNKNOWN}
        return tuple(part for state, part in states.items() if state in self.filter.states)

    def start(self) -> Position:
        """Return where the first step begins."""
        return Position(self.parts[0].value)

    def after(self, position: Position) -> Position | None:
        """Return where to go when a part is through; None when all is."""
        names = [part.value for part in self.parts]
        place = names.index(position.part) + 1
        if place < len(names):
            return Position(names[place], position.turn)
        return Position(names[0], position.turn + 1) if position.turn < self.turns else None


@dataclass(frozen=True, slots=True)
class Position:
    """Where the next step goes on: a part, the number of the turn, and the last key seen.

    `lane`, `due` and `row` are the key (not all parts use all); `message` counts the messages of
    the filter that are through.
    """

    part: str
    turn: int = 1
    lane: int = 0
    due: str = _FIRST
    row: int = 0
    message: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can keep it."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def of_dict(cls, kept: Mapping[str, Any]) -> Self:
        """Read what `to_dict` gave."""
        return cls(**kept)


@dataclass(frozen=True, slots=True)
class Seen:
    """A row as a look saw it."""

    id: int
    lane_id: int
    due: str
    state: RowState
    isp_id: int
    is_meant: bool

    @classmethod
    def of(cls, row: Row) -> Self:
        return cls(row[0], row[1], row[2], RowState(row[3]), row[4], bool(row[5]))


def look(
    execute: Execute, meant: Meant, position: Position, *, at_most: int, limit: int
) -> tuple[list[Seen], Position | None]:
    """Return up to `limit` rows from a position on, no more than `at_most` of them meant, and
    where they end."""
    # Where every row is meant, there is no use in looking at more than are taken.
    if meant.filter.is_of_lanes and not meant.is_late:
        limit = min(limit, at_most)
    rows, end = _LOOKS[Part(position.part)](execute, meant, position, limit)
    seen = [Seen.of(row) for row in rows]
    chosen = [place for place, row in enumerate(seen) if row.is_meant][:at_most]
    if len(chosen) == at_most and (chosen[-1] + 1 < len(seen) or len(seen) == limit):
        seen = seen[: chosen[-1] + 1]
    elif len(seen) < limit:
        return seen, end or meant.after(position)
    last = seen[-1]
    return seen, replace(position, lane=last.lane_id, due=last.due, row=last.id)


def _look_waiting(
    execute: Execute, meant: Meant, position: Position, limit: int
) -> tuple[list[Row], Position | None]:
    lanes = execute(
        "EXECUTE look_lanes (%s,%s,%s,%s,%s,%s,%s,%s)",
        (*lane_params(meant.filter), position.lane, limit),
    )
    if not lanes:
        return [], None
    ids = [row[0] for row in lanes]
    # Before this no row is due later.
    floor = (lanes[0][1], 0) if meant.is_late else (_FIRST, 0)
    starts = [(position.due, position.row) if i == position.lane else floor for i in ids]
    starts = [floor if due == _FIRST else (due, row) for due, row in starts]
    rows = execute(
        f"EXECUTE look_waiting ({_MARKS},%s,%s,%s,%s)",
        (
            *meant_params(meant),
            arrays.numbers(ids),
            arrays.texts([due for due, _ in starts]),
            arrays.numbers([row for _, row in starts]),
            limit,
        ),
    )
    return rows, Position(position.part, position.turn, lane=ids[-1] + 1)


def _look_unknown(
    execute: Execute, meant: Meant, position: Position, limit: int
) -> tuple[list[Row], Position | None]:
    where = (*meant_params(meant), position.due, position.row, limit)
    return execute(f"EXECUTE look_unknown ({_MARKS},%s,%s,%s)", where), None


def _look_messages(
    execute: Execute, meant: Meant, position: Position, limit: int
) -> tuple[list[Row], Position | None]:
    wanted = meant.filter
    through = position.message + _MESSAGES_A_STEP
    rows = execute(
        f"EXECUTE look_messages ({_MARKS},%s,%s,%s,%s)",
        (
            *meant_params(meant),
            arrays.plain(wanted.messages[position.message : through]),
            arrays.numbers([state.value for state in wanted.states]),
            position.row,
            limit,
        ),
    )
    is_last = through >= len(wanted.messages)
    return rows, None if is_last else Position(position.part, position.turn, message=through)


_LOOKS = {
    Part.WAITING: _look_waiting,
    Part.UNKNOWN: _look_unknown,
    Part.MESSAGES: _look_messages,
}


def meant_params(meant: Meant) -> tuple[object, ...]:
    """Return the eleven parameters that say which rows are meant."""
    wanted = meant.filter
    return (
        *lane_params(wanted),
        texts_or_none(wanted.domains),
        texts_or_none([one.lower() for one in wanted.recipients]),
        texts_or_none([one.value for one in wanted.reasons]),
        meant.accepted_before,
        meant.is_late,
    )
