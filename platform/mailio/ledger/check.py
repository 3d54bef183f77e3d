"""The ledger as its checker sees it: what is wrong, and the notes of what was found.

Gives    CheckBook: tally, contents, pointers, notes
Takes    a libpq URL
Raises   StoreUnavailable
Follows  mailcore.invariants, which says what each finding means

Plain, for threads; calls wait for each other. Rows are read in steps by their key: a million take
as much memory as five thousand, and a step that fails is tried again alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict

from mailcore.envelope import ContentRef
from mailcore.invariants import (
    MOST_EXAMPLES,
    OF_LEDGER,
    OF_NODE,
    Absent,
    Finding,
    Invariant,
    Shelf,
    StateAge,
    Tally,
)
from mailcore.outcome import WaitReason
from mailcore.ports import CheckedContents
from mailio.ledger import arrays
from mailio.ledger.check_sql import STATEMENTS
from mailio.ledger.leader import Leadership
from mailio.ledger.pool import Profile, Session

ROWS_A_STEP = 5000
KEPT_S = 30 * 86400.0
# After a start of the database, chores and heartbeats have this long to come back.
SETTLING_S = 120.0
_LOCK = "queue:check"

Pointer = tuple[int, ContentRef]
Progress = Callable[[int, int], object]


def silent(_done: int, _whole: int) -> None:
    """Show no progress."""


class CheckBook:
    """What the checker asks of the ledger, and what it notes there."""

    def __init__(
        self,
        dsn: str,
        *,
        statement_timeout_s: float = 120.0,
        settling_s: float = SETTLING_S,
        rows_a_step: int = ROWS_A_STEP,
    ) -> None:
        self._settling_s = settling_s
        self._rows_a_step = rows_a_step
        self._session = Session(
            dsn,
            role="check",
            profile=Profile.CHORE,
            statements=STATEMENTS,
            statement_timeout_s=statement_timeout_s,
        )
        self._leads = Leadership(self._session)

    def lead(self) -> bool:
        """Take the lock of the one who checks the ledger; False if another process does."""
        return self._leads.take(_LOCK)

    def release(self) -> None:
        """Give the lock back."""
        self._leads.release(_LOCK)

    # --- looks -----------------------------------------------------------------------------------

    def tally(self, consumers: Sequence[str], *, progress: Progress = silent) -> Tally:
        """Look at every row that is there now, at lanes, cursors and processes."""
        tally = Tally()
        first, last = self._range()
        after = first - 1
        reasons = arrays.texts([one.value for one in WaitReason])
        while after < last:
            step = (after, last, self._rows_a_step, reasons, self._settling_s)
            ((end, rows, found, ages),) = self._session.call("scan", step)
            if end is None:
                break
            after = int(end)
            tally.rows += int(rows)
            tally.add(Finding(Invariant(name), n, tuple(ids)) for name, n, ids in found or ())
            tally.add_ages(StateAge(*one) for one in ages or ())
            progress(tally.rows, 0)
        tally.add(self._of_lanes())
        tally.add(self._of_cursors(consumers))
        tally.add(self._of_processes())
        return tally

    def _range(self) -> tuple[int, int]:
        ((first, last),) = self._session.call("row_range")
        return int(first), int(last)

    def _of_lanes(self) -> Iterator[Finding]:
        wrong: list[int] = []
        late: list[int] = []
        for lane_id, *counts, is_late in self._session.call("lane_differences"):
            if counts[:3] != counts[3:]:
                wrong.append(lane_id)
            if is_late:
                late.append(lane_id)
        for invariant, ids in ((Invariant.LANE_COUNTS, wrong), (Invariant.LANE_LATE, late)):
            if ids:
                yield Finding(invariant, len(ids), tuple(ids[:MOST_EXAMPLES]))

    def _of_cursors(self, consumers: Sequence[str]) -> Iterator[Finding]:
        found = self._session.call("cursors", (arrays.texts(list(consumers)),))
        if found:
            notes = [
                f"{name} (an open transaction is in its way)" if is_unsettled else name
                for name, _, is_unsettled in found
            ]
            ids = tuple(int(row[1]) for row in found[:MOST_EXAMPLES])
            yield Finding(Invariant.CURSOR_STUCK, len(found), ids, ", ".join(notes))

    def _of_processes(self) -> Iterator[Finding]:
        found = self._session.call("dead_processes", (self._settling_s,))
        if found:
            nodes = ", ".join(sorted({str(node) for _, node in found})[:MOST_EXAMPLES])
            ids = tuple(int(row[0]) for row in found[:MOST_EXAMPLES])
            yield Finding(Invariant.DEAD_PROCESS, len(found), ids, f"of {nodes}")

    # --- content ---------------------------------------------------------------------------------

    def all_contents(self, *, rows_a_step: int = 500) -> Iterator[Sequence[Pointer]]:
        """Return the pointers of all rows that are there now, step by step."""
        after, last = self._range()
        while after <= last:
            step = self._session.call("contents", (after, last, rows_a_step))
            if not step:
                return
            yield [_pointer(row) for row in step]
            after = int(step[-1][0]) + 1

    def some_contents(
        self, draws: Iterable[float], *, rows_a_draw: int
    ) -> Iterator[Sequence[Pointer]]:
        """Return pointers of rows at places that the draws, each from 0 to 1, say."""
        first, last = self._range()
        for draw in draws:
            start = first + int(draw * (last - first))
            step = self._session.call("contents", (start, last, rows_a_draw))
            if step:
                yield [_pointer(row) for row in step]

    def pointers(self, row_ids: Iterable[int]) -> Sequence[Pointer]:
        """Return where these rows point now; rows that are gone are left out."""
        ids = arrays.numbers(sorted(set(row_ids)))
        return [_pointer(row) for row in self._session.call("pointers", (ids,))]

    def open_examples(self, invariant: Invariant, node: str) -> Sequence[int]:
        """Return the examples of what stands."""
        found = self._session.call("open_examples", (invariant.value, node))
        return [int(row[0]) for row in found]

    def last_contents(self, node: str) -> tuple[float | None, Sequence[Absent]]:
        """Return how long ago a node's content was looked at, and what it did not have."""
        found = self._session.call("last_content", (node,))
        if not found:
            return None, ()
        ((age_s, absent),) = found
        return float(age_s), [Absent(one[0], ContentRef(*one[1:])) for one in absent]

    def other_shelves(self, node: str) -> Sequence[Shelf]:
        """Return what the other nodes noted of their spools."""
        return [
            Shelf(str(other), age_s, frozenset(segments))
            for other, age_s, segments in self._session.call("other_shelves", (node,))
        ]

    # --- notes -----------------------------------------------------------------------------------

    def note_ledger(self, findings: Sequence[Finding], tally: Tally, *, took_s: float) -> None:
        """Note what a look at the ledger came to; what it did not meet again has ended."""
        ages = json.dumps([asdict(one) for one in tally.ages])
        with self._session.transaction() as execute:
            execute("EXECUTE forget_ages (%s)", (ages,))
            execute("EXECUTE note_ages (%s)", (ages,))
            execute(*_found("", findings))
            execute(*_ended("", OF_LEDGER))
            values = ("ledger", "", took_s, tally.rows, True, "{}", "[]")
            execute("EXECUTE note_check (%s,%s,%s,%s,%s,%s,%s)", values)
            execute("EXECUTE prune_checks (%s)", (KEPT_S,))

    def note_contents(self, node: str, look: CheckedContents, *, took_s: float) -> None:
        """Note what a look at a node's content came to, and what the other nodes want to know."""
        absent = [[one.row_id, *_numbers(one.ref)] for one in look.absent]
        with self._session.transaction() as execute:
            execute(*_found(node, look.findings))
            execute(*_ended(node, OF_NODE))
            values = (
                *("content", node, took_s, look.contents, look.is_whole),
                *(arrays.numbers(look.segments), json.dumps(absent)),
            )
            execute("EXECUTE note_check (%s,%s,%s,%s,%s,%s,%s)", values)

    def close(self) -> None:
        """Close the connection."""
        self._session.close()


def _pointer(row: Sequence[int]) -> Pointer:
    return int(row[0]), ContentRef(*row[1:])


def _numbers(ref: ContentRef) -> tuple[int, int, int, int]:
    return ref.segment, ref.offset, ref.length, ref.crc


def _found(node: str, findings: Sequence[Finding]) -> tuple[str, Sequence[object]]:
    told = [{**asdict(one), "invariant": one.invariant.value} for one in findings]
    return "EXECUTE note_found (%s,%s)", (node, json.dumps(told))


def _ended(node: str, invariants: Sequence[Invariant]) -> tuple[str, Sequence[object]]:
    names = arrays.texts([one.value for one in invariants])
    return "EXECUTE note_ended (%s,%s)", (node, names)
