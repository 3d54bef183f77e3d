"""Segment files on the disk: their names and headers, and what upkeep does with them.

Gives    segment_path, header_of, write_all, sync_directory for the writer; take_inventory,
         delete_sealed, spare, space_of for upkeep; SUFFIX, MARK, WRITERS, HEADER_BYTES
Takes    the directory of a spool
Raises   OSError for a directory that cannot be read

A file is ours if its name is exactly what we would give it and its first bytes are the header that
goes with the name. Everything else is somebody's whom we do not know, and is never deleted.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mailcore.spool import DiskSpace, Inventory, SegmentInfo

SUFFIX = ".seg"
MARK = "installation.json"
WRITERS = 4096
_MAGIC = b"PFSPOOL\0"
_VERSION = 1
_HEADER = struct.Struct("<8sIIQ")  # magic, version, reserved, segment number
HEADER_BYTES = _HEADER.size
_HIGHEST = 2**63
_IOV_MAX = 1024
_YOUNG_S = 60.0

log = logging.getLogger(__name__)


def segment_path(directory: Path, number: int) -> Path:
    """Return where a segment lies; names sort by age."""
    return directory / f"{number:016x}{SUFFIX}"


def header_of(number: int) -> bytes:
    """Return a segment's first bytes."""
    return _HEADER.pack(_MAGIC, _VERSION, 0, number)


def write_all(fd: int, buffers: list[bytes], offset: int) -> None:
    """Write every buffer from `offset` on, however little the kernel takes at a time."""
    for first in range(0, len(buffers), _IOV_MAX):
        views = [memoryview(buffer) for buffer in buffers[first : first + _IOV_MAX]]
        while views:
            written = os.pwritev(fd, views, offset)
            offset += written
            while views and written >= len(views[0]):
                written -= len(views.pop(0))
            if views and written:
                views[0] = views[0][written:]


def sync_directory(path: Path) -> None:
    """Make names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def take_inventory(directory: Path, *, now: float) -> Inventory:
    """Return what lies in a spool directory; nothing if there is none yet."""
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return Inventory([], [])
    segments: list[SegmentInfo] = []
    foreign: list[str] = []
    for name in names:
        if name.startswith(MARK):
            continue
        number = _number_of(name)
        if number is None:
            foreign.append(_shown(name))
            continue
        try:
            info = inspect(directory / name, number, now=now)
        except FileNotFoundError:
            continue
        if info is None:
            foreign.append(_shown(name))
        else:
            segments.append(info)
    return Inventory(segments, foreign)


def _shown(name: str) -> str:
    """Return a file's name as text that may be stored, whatever bytes it has."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _number_of(name: str) -> int | None:
    """Return the number of a segment of this name, None if we give no such name."""
    stem = name.removesuffix(SUFFIX)
    if len(stem) != 16 or stem == name or set(stem) - set("0123456789abcdef"):
        return None
    number = int(stem, 16)
    return number if number < _HIGHEST else None


def inspect(path: Path, number: int, *, now: float) -> SegmentInfo | None:
    """Return what a file is, None if it is none of ours. Raises FileNotFoundError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError:
        return None  # a link, a directory of another user, a socket: nothing we would make
    try:
        status = os.fstat(fd)
        try:
            begins = os.pread(fd, HEADER_BYTES, 0)
        except OSError:
            return None
        # A crash may leave a new file short, or with its room but without its bytes.
        is_ours = header_of(number).startswith(begins) or not any(begins)
        if not is_ours:
            return None
        created_ms = number // WRITERS
        age_s = now - status.st_mtime
        if created_ms / 1000 <= now:  # else a clock was ahead then
            age_s = min(age_s, now - created_ms / 1000)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return SegmentInfo(number, status.st_size, age_s, False, created_ms)
        # Between its creation and its lock a segment has no header yet.
        is_sealed = status.st_size >= HEADER_BYTES or age_s > _YOUNG_S
        return SegmentInfo(number, status.st_size, age_s, is_sealed, created_ms)
    finally:
        os.close(fd)


def delete_sealed(directory: Path, numbers: Iterable[int], *, now: float) -> list[int]:
    """Delete those of these segments that are ours and sealed; return which. One that cannot be
    deleted keeps no other."""
    deleted: list[int] = []
    for number in numbers:
        path = segment_path(directory, number)
        try:
            info = inspect(path, number, now=now)
        except FileNotFoundError:
            continue
        if info is None or not info.is_sealed:
            continue
        try:
            path.unlink(missing_ok=True)
        except OSError as exc:
            reason = exc.strerror or str(exc)
            log.error("segment not deleted", extra={"path": str(path), "reason": reason})
        else:
            deleted.append(number)
    return deleted


def spare(directory: Path, number: int, *, age_s: float, now: float) -> None:
    """Let a segment count as so old and no older; nothing if it is gone."""
    written_at = now - age_s
    with suppress(FileNotFoundError):
        os.utime(segment_path(directory, number), (written_at, written_at))


def space_of(directory: Path) -> DiskSpace:
    """Return the room on a spool's file system, asking its parent while it does not exist."""
    for path in (directory, *directory.parents):
        try:
            found = os.statvfs(path)
        except FileNotFoundError:
            continue
        return DiskSpace(
            total_bytes=found.f_blocks * found.f_frsize,
            free_bytes=found.f_bavail * found.f_frsize,
            total_inodes=found.f_files,
            free_inodes=found.f_favail,
        )
    raise FileNotFoundError(directory)
