"""The spool in segment files: group commit, read back, list, delete.

Gives    SegmentSpool (ports SpoolWriter and SpoolReader)
Raises   StoreFull when content cannot be made durable for want of room, StoreUnavailable when for
         another cause: write error
Layout   a segment file is a header (magic, version, number) and records (length, CRC-32, bytes),
         little-endian; a ContentRef's offset is that of its record

A process writes segments of its own and nobody else's, so there is nothing to coordinate: content
of all threads that wait goes out in one write and one fdatasync. The writer holds a lock on the
file while it may grow; a segment without that lock is sealed and only upkeep touches it again. A
writer with nothing to write seals its segment after a while, for what is written to cannot go.
After a write error a segment is cut back to what was durable and never written again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import struct
import threading
import time
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mailcore.envelope import ContentRef
from mailcore.ports import StoreFull, StoreUnavailable
from mailcore.spool import SegmentInfo
from mailio.spool.files import (
    HEADER_BYTES,
    WRITERS,
    delete_sealed,
    header_of,
    segment_path,
    sync_directory,
    take_inventory,
    write_all,
)
from mailio.spool.group import GroupCommit
from mailio.spool.mark import claim
from mailio.spool.room import floor_bytes

_RECORD = struct.Struct("<II")  # length, CRC-32
RECORD_BYTES = _RECORD.size
_DAMAGE = frozenset({errno.EIO, errno.EINVAL, errno.EOVERFLOW})
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class _Checked:
    """Content with the checksum made by the thread that brought it."""

    content: bytes
    crc: int
    is_urgent: bool


class _File:
    """A descriptor that closes when nobody reads from it any more."""

    __slots__ = ("fd", "opened_at")

    def __init__(self, fd: int, opened_at: float) -> None:
        self.fd = fd
        self.opened_at = opened_at

    def __del__(self) -> None:
        os.close(self.fd)


class _Segment:
    """The segment this process writes. `end` is where the durable part ends."""

    __slots__ = ("end", "fd", "number", "opened_at", "pid", "written_at")

    def __init__(self, fd: int, number: int, opened_at: float) -> None:
        self.fd = fd
        self.number = number
        self.opened_at = self.written_at = opened_at
        self.end = HEADER_BYTES
        self.pid = os.getpid()


class SegmentSpool:
    """Content in segment files under one directory. Safe for threads; one object per process.

    `writer` (0-4095) goes into the numbers of this process's segments; any number will do, for a
    clash is found when the file is created. Nothing is opened before it is needed. What must stay
    free on the disk may be a function: it is asked before each write. `owner` returns the
    installation whose directory this must be; it is asked before each new segment.
    """

    def __init__(
        self,
        directory: Path,
        *,
        writer: int | None = None,
        max_segment_bytes: int = 64 * 2**20,
        max_segment_age_s: float = 600.0,
        max_idle_s: float = 60.0,
        min_free_bytes: int | Callable[[], int] = 256 * 2**20,
        owner: Callable[[], str] | None = None,
        max_open_files: int = 128,
        reuse_file_s: float = 300.0,
        read_threads: int = 2,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = Path(directory)
        self._writer = (os.getpid() if writer is None else writer) % WRITERS
        self._max_segment_bytes = max_segment_bytes
        self._max_segment_age_s = max_segment_age_s
        self._max_idle_s = max_idle_s
        self._min_free_bytes = min_free_bytes
        self._owner = owner
        self._max_open_files = max_open_files
        self._reuse_file_s = reuse_file_s
        self._wall = wall
        self._monotonic = monotonic
        self._segment: _Segment | None = None
        self._files: OrderedDict[int, _File] = OrderedDict()
        self._held: list[int] = []
        self._begin()
        # A thread of the parent's may have a lock at the moment of a fork; the child has no thread
        # that would ever let it go.
        this = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _begin_in_child(this))
        self._readers = ThreadPoolExecutor(read_threads, thread_name_prefix="spool-read")

    def _begin(self) -> None:
        self._segment_lock = threading.Lock()
        self._holders = 0
        self._sealer: threading.Thread | None = None
        self._ending = threading.Event()
        self._group: GroupCommit[Sequence[_Checked], list[ContentRef]] = GroupCommit(self._commit)
        self._files_lock = threading.Lock()
        while self._held:
            os.close(self._held.pop())

    # ── writing ───────────────────────────────────────────────────────────────────────────────

    def append(self, contents: Sequence[bytes], *, is_urgent: bool = False) -> Sequence[ContentRef]:
        """Store each; return when all are durable. Raises StoreUnavailable."""
        if not contents:
            return []
        return self._group.submit([_Checked(c, zlib.crc32(c), is_urgent) for c in contents])

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Keep the lock on what is appended inside, sealed or not: until its rows are there only
        this process knows of them, and it may be stopped for longer than any grace time."""
        with self._segment_lock:
            self._holders += 1
        try:
            yield
        finally:
            with self._segment_lock:
                self._holders -= 1
                while self._held and not self._holders:
                    fd = self._held.pop()
                    with contextlib.suppress(OSError):
                        os.utime(fd)  # a statement may still be under way: grace counts from now
                    os.close(fd)

    def seal(self) -> None:
        """Finish the segment this process writes; the next append opens a new one."""
        with self._segment_lock:
            self._close_segment()

    def close(self) -> None:
        """Seal, and stop the threads."""
        self.seal()
        self._ending.set()
        self._readers.shutdown(wait=True)
        with self._files_lock:
            self._files.clear()

    def _commit(self, groups: Sequence[Sequence[_Checked]]) -> list[list[ContentRef]]:
        with self._segment_lock:
            try:
                segment = self._writable([record for group in groups for record in group])
                return self._write(segment, groups)
            except OSError as exc:
                self._abandon_segment()
                kind = StoreFull if exc.errno in FULL else StoreUnavailable
                reason = exc.strerror or str(exc)
                raise kind("spool", f"content cannot be stored: {reason}") from exc

    def _write(
        self, segment: _Segment, groups: Sequence[Sequence[_Checked]]
    ) -> list[list[ContentRef]]:
        offset = segment.end
        buffers: list[bytes] = []
        result: list[list[ContentRef]] = []
        for group in groups:
            refs: list[ContentRef] = []
            for record in group:
                length = len(record.content)
                refs.append(ContentRef(segment.number, offset, length, record.crc))
                buffers += (_RECORD.pack(length, record.crc), record.content)
                offset += _RECORD.size + length
            result.append(refs)
        write_all(segment.fd, buffers, segment.end)
        os.fdatasync(segment.fd)
        segment.end = offset
        segment.written_at = self._monotonic()
        return result

    def _writable(self, records: Sequence[_Checked]) -> _Segment:
        """Return the segment to write to, a new one when it is time. Under the segment lock."""
        segment = self._segment
        if segment is not None and segment.pid != os.getpid():
            # A forked child must not write where its parent does. Closing its copy of the
            # descriptor leaves the parent's lock alone.
            os.close(segment.fd)
            segment = self._segment = None
        if segment is not None and (
            segment.end >= self._max_segment_bytes
            or self._monotonic() - segment.opened_at >= self._max_segment_age_s
        ):
            self._close_segment()
            segment = None
        if segment is None:
            segment = self._segment = self._create_segment()
            self._watch()
        self._check_room(segment.fd, records)
        return segment

    def _check_room(self, fd: int, records: Sequence[_Checked]) -> None:
        """Refuse before anything is written what would leave less free than must stay."""
        kept = floor_bytes(self._min_free_bytes, is_urgent=all(r.is_urgent for r in records))
        room = os.fstatvfs(fd)
        free_bytes = room.f_bavail * room.f_frsize
        if free_bytes < kept + sum(len(record.content) for record in records):
            raise StoreFull("spool", f"only {free_bytes >> 20} MB of disk are left")

    def _create_segment(self) -> _Segment:
        if not self._directory.is_dir():
            self._directory.mkdir(parents=True, exist_ok=True)
            sync_directory(self._directory.parent)
        if self._owner is not None:
            claim(self._directory, self._owner())
        unix_ms = int(self._wall() * 1000)
        while True:
            number = unix_ms * WRITERS + self._writer
            try:
                path = segment_path(self._directory, number)
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
                break
            except FileExistsError:
                unix_ms += 1
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            write_all(fd, [header_of(number)], 0)
            os.fsync(fd)
            sync_directory(self._directory)
        except OSError:
            with contextlib.suppress(OSError):  # a full disk must not fill with empty files
                path.unlink()
            os.close(fd)
            raise
        return _Segment(fd, number, self._monotonic())

    def _watch(self) -> None:
        """See to it that the segment is sealed when nobody writes. Under the segment lock."""
        if self._sealer is None or not self._sealer.is_alive():  # a fork leaves it behind
            self._sealer = threading.Thread(
                target=self._seal_idle, name="spool-seal", daemon=True, args=(os.getpid(),)
            )
            self._sealer.start()

    def _seal_idle(self, pid: int) -> None:
        """Seal what has been idle or open for too long; end with the segment."""
        left: float | None = 0.0
        while left is not None and not self._ending.wait(left):
            with self._segment_lock:
                left = self._seal_in(pid)
                if left is None:
                    self._sealer = None

    def _seal_in(self, pid: int) -> float | None:
        """Return in how many seconds to look again; None once there is nothing to seal."""
        segment = self._segment
        if segment is None or segment.pid != pid:
            return None
        left = min(
            segment.written_at + self._max_idle_s, segment.opened_at + self._max_segment_age_s
        )
        left -= self._monotonic()
        if left > 0:
            return min(left, 3600.0)  # an endless one is no time to wait
        self._close_segment()
        return None

    def _close_segment(self) -> None:
        segment, self._segment = self._segment, None
        if segment is not None:
            self._let_go(segment)

    def _let_go(self, segment: _Segment) -> None:
        if self._holders:
            self._held.append(segment.fd)
        else:
            os.close(segment.fd)

    def _abandon_segment(self) -> None:
        """Cut the segment back to what is durable and leave it; what failed may half be there."""
        segment, self._segment = self._segment, None
        if segment is None:
            return
        with contextlib.suppress(OSError):  # then its tail is garbage that no reference names
            os.ftruncate(segment.fd, segment.end)
        self._let_go(segment)

    # ── reading ───────────────────────────────────────────────────────────────────────────────

    async def read_many(self, refs: Sequence[ContentRef]) -> Sequence[bytes | None]:
        """Return the bytes of each, None for what is missing or damaged."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self.read_now, refs)

    def read_now(self, refs: Sequence[ContentRef]) -> list[bytes | None]:
        """The same on the calling thread."""
        return [self._read(ref) for ref in refs]

    def _read(self, ref: ContentRef) -> bytes | None:
        try:
            file = self._open(ref.segment)
            record = os.pread(file.fd, _RECORD.size + ref.length, ref.offset)
        except FileNotFoundError:
            return None
        except OSError as exc:
            if exc.errno in _DAMAGE:
                return None
            raise StoreUnavailable("spool", exc.strerror or str(exc)) from exc
        if record[: _RECORD.size] != _RECORD.pack(ref.length, ref.crc):
            return None
        content = record[_RECORD.size :]
        return content if zlib.crc32(content) == ref.crc else None

    def _open(self, number: int) -> _File:
        now = self._monotonic()
        with self._files_lock:
            # In the order they were opened: a deleted segment's room is free again soon after.
            while self._files:
                oldest = next(iter(self._files))
                if (
                    now - self._files[oldest].opened_at < self._reuse_file_s
                    and len(self._files) <= self._max_open_files
                ):
                    break
                del self._files[oldest]
            file = self._files.get(number)
            if file is None:
                path = segment_path(self._directory, number)
                file = _File(os.open(path, os.O_RDONLY | os.O_CLOEXEC), now)
                self._files[number] = file
            return file

    # ── upkeep ────────────────────────────────────────────────────────────────────────────────

    def segments(self) -> Sequence[SegmentInfo]:
        """Return all segments of the directory, oldest first."""
        return take_inventory(self._directory, now=self._wall()).segments

    def delete(self, numbers: Iterable[int]) -> list[int]:
        """Delete those of these segments that are sealed; return which."""
        deleted = delete_sealed(self._directory, numbers, now=self._wall())
        with self._files_lock:
            for number in deleted:
                self._files.pop(number, None)
        return deleted


def _begin_in_child(this: weakref.ref[SegmentSpool]) -> None:
    spool = this()
    if spool is not None:
        spool._begin()
