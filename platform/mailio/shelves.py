"""What lies on this node's disk, as upkeep sees it: journals of the dead, sealed segments.

Gives    JournalDirectory (port JournalShelf), SegmentDirectory (port SpoolShelf)
Raises   StoreUnavailable when the disk cannot be read
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mailio import journal
from mailio.spool.segments import SegmentSpool


class JournalDirectory:
    """The journals of one node."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}{journal.SUFFIX}"

    def is_alive(self, name: str) -> bool:
        """Whether the process that owns it lives (it holds its lock)."""
        return journal.is_held(self._path(name))

    def recover(self, name: str) -> journal.Recovery | None:
        """Return what a dead process left; None if it lives or left nothing."""
        return journal.recover(self._path(name))

    def discard(self, name: str) -> None:
        """Delete it, once it is settled."""
        journal.discard(self._path(name))


class SegmentDirectory:
    """The segments of one node's file spool."""

    def __init__(self, spool: SegmentSpool) -> None:
        self._spool = spool

    def sealed_segments(self, *, older_than_s: float) -> Sequence[int]:
        """Return segments nobody writes to any more, and has not for this long."""
        return [
            info.number
            for info in self._spool.segments()
            if info.is_sealed and info.age_s >= older_than_s
        ]

    def delete(self, segments: Sequence[int]) -> Sequence[int]:
        """Delete them; return those that are gone."""
        return self._spool.delete(segments)
