"""What lies on this node's disk, as upkeep sees it: journals of the dead, sealed segments.

Gives    JournalDirectory (port JournalShelf), SegmentDirectory (port SpoolShelf)
Raises   StoreUnavailable when the disk cannot be read; StoreFull for a copy or a mark without room
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mailcore.envelope import ContentRef
from mailcore.ports import StoreFull, StoreUnavailable
from mailcore.spool import DiskSpace, Inventory, SpoolMark
from mailio import journal
from mailio.spool import files, mark
from mailio.spool.segments import FULL, SegmentSpool

# Copying is what makes room, so it may go on when nothing is accepted any more.
COPY_FLOOR_BYTES = 32 * 2**20


class JournalDirectory:
    """The journals of one node."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}{journal.SUFFIX}"

    def names(self) -> Sequence[str]:
        """Return those that have records, of living and of dead processes."""
        return sorted({path.name.split(journal.SUFFIX)[0] for path in self._records()})

    def _records(self) -> Iterator[Path]:
        # Whoever has records holds its lock, or is dead; a lock alone may be a moment old.
        return self._directory.glob(f"*{journal.SUFFIX}.[0-9]*")

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
    """The segments of one node's file spool, and a writer of its own for copies.

    Copies share a segment until `seal`: it is not closed for its age, so nobody may delete it
    before all that shall point at it does.
    """

    def __init__(
        self,
        directory: Path,
        *,
        copy_floor_bytes: int = COPY_FLOOR_BYTES,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._wall = wall
        self._spool = SegmentSpool(
            directory,
            min_free_bytes=copy_floor_bytes,
            max_segment_age_s=float("inf"),
            max_idle_s=float("inf"),
            wall=wall,
        )

    def inventory(self) -> Inventory:
        """Return what lies in the directory."""
        with _told():
            return files.take_inventory(self._directory, now=self._wall())

    def mark(self) -> SpoolMark | None:
        """Return what the directory is marked with, None if nobody did."""
        with _told():
            return mark.read_mark(self._directory)

    def write_mark(self, new: SpoolMark) -> None:
        """Mark the directory, if there is one. Raises StoreFull."""
        with _told():
            if self._directory.is_dir():
                mark.write_mark(self._directory, new)

    def delete(self, segments: Iterable[int]) -> Sequence[int]:
        """Delete those that nobody writes to any more; return which."""
        with _told():
            return self._spool.delete(segments)

    def spare(self, segment: int, *, age_s: float) -> None:
        """Let a segment count as so old and no older."""
        with _told():
            files.spare(self._directory, segment, age_s=age_s, now=self._wall())

    def read(self, refs: Sequence[ContentRef]) -> Sequence[bytes | None]:
        """Return the bytes of each, None for what is missing or damaged."""
        return self._spool.read_now(refs)

    def copy(self, contents: Sequence[bytes]) -> Sequence[ContentRef]:
        """Store each in a segment that nobody may delete before `seal`; durable on return."""
        return self._spool.append(contents)

    def seal(self) -> None:
        """Let go of the segment that `copy` wrote."""
        self._spool.seal()

    def space(self) -> DiskSpace:
        """Return the room on the disk."""
        with _told():
            return files.space_of(self._directory)

    def close(self) -> None:
        """Let go of all files."""
        self._spool.close()


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        kind = StoreFull if exc.errno in FULL else StoreUnavailable
        raise kind("spool", exc.strerror or str(exc)) from exc
