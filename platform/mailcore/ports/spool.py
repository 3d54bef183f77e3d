"""The spool of a node, as its upkeep sees it: files on one side, the ledger on the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from mailcore.envelope import ContentRef
from mailcore.spool import (
    DiskSample,
    DiskSpace,
    Forecast,
    Inventory,
    LiveSegment,
    SpoolMark,
    SweepFigures,
)


class SpoolShelf(Protocol):
    """The segments of a spool. Plain, for threads. Raises StoreUnavailable."""

    def inventory(self) -> Inventory:
        """Return what lies there."""
        ...

    def mark(self) -> SpoolMark | None:
        """Return what the spool is marked with, None if nobody did."""
        ...

    def write_mark(self, mark: SpoolMark) -> None:
        """Mark the spool, if there is one. Raises StoreFull."""
        ...

    def delete(self, segments: Iterable[int]) -> Sequence[int]:
        """Delete those that nobody writes to any more; return which."""
        ...

    def spare(self, segment: int, *, age_s: float) -> None:
        """Let a segment count as so old and no older."""
        ...

    def read(self, refs: Sequence[ContentRef]) -> Sequence[bytes | None]:
        """Return the bytes of each, None for what is missing or damaged."""
        ...

    def copy(self, contents: Sequence[bytes]) -> Sequence[ContentRef]:
        """Store each in a segment that nobody may delete before `seal`; durable on return."""
        ...

    def seal(self) -> None:
        """Let go of the segment that `copy` wrote."""
        ...

    def space(self) -> DiskSpace:
        """Return the room on the disk."""
        ...


class SpoolLedger(Protocol):
    """What the ledger knows about content. Plain, for threads. Raises StoreUnavailable."""

    def lead(self) -> bool:
        """Take or keep the right to sweep the spool that nodes share; one process has it. Moves
        are refused once it was lost."""
        ...

    def home(self, node: str) -> SpoolMark:
        """Return whose this ledger is, and how many sweeps of the node it has counted."""
        ...

    def count_sweep(self, node: str) -> SpoolMark:
        """Count one more; return the same."""
        ...

    def live_segments(self, segments: Sequence[int]) -> Sequence[LiveSegment]:
        """Return those of these segments that a row or an undo record points at."""
        ...

    def live_contents(self, segment: int) -> Sequence[ContentRef]:
        """Return the contents of a segment that are pointed at, each once."""
        ...

    def move_contents(self, moves: Sequence[tuple[ContentRef, ContentRef]]) -> int:
        """Point all that points at the first of each pair at the second; return how many did.

        The old ones lie in one segment. Rows that are locked meanwhile keep their pointer.
        """
        ...

    def note_sample(self, node: str, space: DiskSpace) -> Sequence[DiskSample]:
        """Note what is free now; return the samples of the last hour, this one included."""
        ...

    def note_disk(
        self, node: str, space: DiskSpace, told: Forecast, *, warn_bytes: int, stop_bytes: int
    ) -> None:
        """Note how a node's disk stands, for people."""
        ...

    def note_sweep(self, node: str, figures: SweepFigures) -> None:
        """Note what a sweep found and did, for people."""
        ...

    def prune(self) -> None:
        """Forget what is too old to be looked at."""
        ...
