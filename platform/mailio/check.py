"""The checker of the queue: the ledger's rules, and content read back through the spool.

Gives    Checker, which implements mailcore.ports.QueueChecker
Takes    a CheckBook and a SpoolLedger (the ledger), a SpoolShelf (this node's content)
Raises   StoreUnavailable, naming the store
Follows  mailcore.invariants

Used by upkeep and by `manage.py check_queue`. Looking changes nothing; a look that is broken off
leaves no note. Content is read through the spool's port alone, whatever kind of spool it is.
"""

from __future__ import annotations

import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from mailcore.envelope import ContentRef
from mailcore.invariants import (
    MOST_EXAMPLES,
    Absent,
    Finding,
    Invariant,
    Shelf,
    Tally,
    is_lost,
    orphans,
)
from mailcore.ports import CheckedContents, SpoolLedger, SpoolShelf
from mailio.ledger.check import CheckBook, Pointer, Progress, silent

# A sample: so many places in the queue, so many rows at each.
PLACES = 64
ROWS_A_PLACE = 8
BATCH_BYTES = 8 * 2**20
# Recipients of one campaign share their content: it is read once for those that follow each other.
REMEMBERED = 10_000
MOST_ABSENT = 1000
# A pointer may move while its content is read: so often it is asked for anew.
_TRIES = 3


@dataclass(slots=True)
class _Reading:
    """What one look at content has met so far."""

    own: frozenset[int]
    others: Sequence[Shelf]
    doubted: frozenset[Absent]
    doubted_s: float | None
    contents: int = 0
    lost: int = 0
    examples: list[int] = field(default_factory=list)
    absent: list[Absent] = field(default_factory=list)
    seen: OrderedDict[ContentRef, bool] = field(default_factory=OrderedDict)
    judged: set[int] = field(default_factory=set)

    def judge(self, row_id: int, ref: ContentRef) -> None:
        """Note that a row's content is not read here: lost, or perhaps another node's."""
        if row_id in self.judged:
            return
        self.judged.add(row_id)
        one = Absent(row_id, ref)
        doubted_s = self.doubted_s if one in self.doubted else None
        if ref.segment in self.own or is_lost(ref.segment, others=self.others, doubted_s=doubted_s):
            self.lost += 1
            if len(self.examples) < MOST_EXAMPLES:
                self.examples.append(row_id)
        elif len(self.absent) < MOST_ABSENT:
            self.absent.append(one)

    def forget(self) -> None:
        """Keep what was read last in mind, for rows that share it, and no more."""
        while len(self.seen) > REMEMBERED:
            self.seen.popitem(last=False)


class Checker:
    """Looks at the ledger and at the content of one node. Thread-safe as its parts are."""

    def __init__(
        self,
        book: CheckBook,
        spool: SpoolLedger,
        shelf: SpoolShelf,
        *,
        node: str,
        consumers: Sequence[str],
        draw: Callable[[], float] = random.random,
        rest: Callable[[float], object] | None = None,
        progress: Progress = silent,
    ) -> None:
        self._book = book
        self._spool = spool
        self._shelf = shelf
        self._node = node
        self._consumers = tuple(consumers)
        self._draw = draw
        self._rest = rest or threading.Event().wait
        self.progress = progress

    def lead(self) -> bool:
        """Take the lock of the one who checks the ledger."""
        return self._book.lead()

    def release(self) -> None:
        """Give it back."""
        self._book.release()

    def look_at_ledger(self) -> Tally:
        """Look at all rows, lanes, cursors and processes."""
        return self._book.tally(self._consumers, progress=self.progress)

    def note_ledger(self, findings: Sequence[Finding], tally: Tally, *, took_s: float) -> None:
        """Note what that came to."""
        self._book.note_ledger(findings, tally, took_s=took_s)

    def since_contents(self) -> float | None:
        """Return how long ago this node's content was looked at, None if never."""
        return self._book.last_contents(self._node)[0]

    def note_contents(self, look: CheckedContents, *, took_s: float) -> None:
        """Note what it came to."""
        self._book.note_contents(self._node, look, took_s=took_s)

    def look_at_contents(
        self, *, is_whole: bool, grace_s: float, retention_s: float
    ) -> CheckedContents:
        """Read content back; look for segments that should be gone.

        What was missed before is looked at again, so that a sample does not end what stands.
        """
        inventory = self._shelf.inventory()
        numbers = [info.number for info in inventory.segments]
        doubted_s, doubted = self._book.last_contents(self._node)
        others = self._book.other_shelves(self._node)
        reading = _Reading(frozenset(numbers), others, frozenset(doubted), doubted_s)
        standing = self._book.open_examples(Invariant.CONTENT_LOST, self._node)
        again = [one.row_id for one in doubted]
        self._read(self._book.pointers([*standing, *again]), reading)
        for pointers in self._pointers(is_whole=is_whole):
            began = time.monotonic()
            self._read(pointers, reading)
            reading.forget()
            self.progress(reading.contents, 0)
            if is_whole:
                # Half of the disk's time at most: mail is read from it too.
                self._rest(time.monotonic() - began)
        live = {one.number: one for one in self._spool.live_segments(numbers)}
        late = orphans(inventory.segments, live, grace_s=grace_s, retention_s=retention_s)
        found = [late] if late is not None else []
        if reading.lost:
            note = "" if is_whole else "of a sample"
            examples = tuple(reading.examples)
            found.insert(0, Finding(Invariant.CONTENT_LOST, reading.lost, examples, note))
        return CheckedContents(reading.contents, is_whole, found, numbers, reading.absent)

    def _pointers(self, *, is_whole: bool) -> Iterator[Sequence[Pointer]]:
        if is_whole:
            return self._book.all_contents()
        draws = sorted(self._draw() for _ in range(PLACES))
        return self._book.some_contents(draws, rows_a_draw=ROWS_A_PLACE)

    def _read(self, pointers: Sequence[Pointer], reading: _Reading) -> None:
        """Read what these rows point at; ask again where a row points before it is judged."""
        for _ in range(_TRIES):
            self._fill(dict.fromkeys(ref for _, ref in pointers), reading)
            bad = [one for one in pointers if not reading.seen[one[1]]]
            if not bad:
                return
            now = dict(self._book.pointers(row_id for row_id, _ in bad))
            moved = [(row_id, now[row_id]) for row_id, ref in bad if now.get(row_id, ref) != ref]
            for row_id, ref in bad:
                # Pointed at before it was read and after: so it should have been there.
                if now.get(row_id) == ref:
                    reading.judge(row_id, ref)
            pointers = moved
        for row_id, ref in pointers:
            reading.judge(row_id, ref)

    def _fill(self, refs: Iterable[ContentRef], reading: _Reading) -> None:
        """Read the contents that are not remembered, no more in memory than a batch of them."""
        for batch in _batches(ref for ref in refs if ref not in reading.seen):
            for ref, content in zip(batch, self._shelf.read(batch), strict=True):
                reading.seen[ref] = content is not None
            reading.contents += len(batch)


def _batches(refs: Iterable[ContentRef]) -> Iterator[Sequence[ContentRef]]:
    batch: list[ContentRef] = []
    size_bytes = 0
    for ref in refs:
        if batch and size_bytes + ref.length > BATCH_BYTES:
            yield batch
            batch, size_bytes = [], 0
        batch.append(ref)
        size_bytes += ref.length
    if batch:
        yield batch
