"""Outcomes on this node's disk before they are anywhere else, and how a dead process's are read.

Gives    FileJournal (port Journal); recover, discard, is_held, journals
Raises   StoreUnavailable when a record cannot be written: then the dot must not be sent
Layout   `<name>.journal` is the lock, held for the life of its process; records lie beside it in
         `<name>.journal.NNNNNN`, each: kind, payload length, CRC-32, payload (little-endian)
Follows  design.md section 2 (journal) and section 3 steps 4 and 6

Every record reaches the kernel by write(2) before the call returns, so it survives the process;
a thread calls fdatasync each second, so that a lost machine costs at most a second. A file is
deleted once all it tells is settled and no older file is left, so that the note that forgets an
entry never goes before the entry.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mailcore.errors import SchemaError
from mailcore.outcome import Outcome
from mailcore.ports import StoreUnavailable
from mailio.journal_records import (
    DOT,
    FORGET,
    OUTCOME,
    decode_outcome,
    encode_outcome,
    record,
    whole_records,
)

SUFFIX = ".journal"
_CLAIM = struct.Struct("<qi")  # row id, claim number

Claim = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a dead process left unsettled.

    `dots` are claims whose final dot may have been sent and whose reply nobody read: their outcome
    is unknown. `damaged_files` ended in a record that is torn or cannot be read.
    """

    outcomes: list[Outcome]
    dots: list[Claim]
    damaged_files: int = 0


class _Generation:
    """One file of records. `live` counts the unsettled claims whose first record is in it."""

    __slots__ = ("fd", "live", "path", "size")

    def __init__(self, path: Path) -> None:
        self.path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self.fd = os.open(path, flags, 0o640)
        self.size = 0
        self.live = 0


class FileJournal:
    """The journal of this process. Appends come from one thread, the engine's loop.

    A new file is begun when the current one is larger than `max_file_bytes`, or larger than
    `min_file_bytes` with nothing unsettled.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        *,
        sync_every_s: float = 1.0,
        max_file_bytes: int = 16 * 2**20,
        min_file_bytes: int = 2**20,
    ) -> None:
        self.path = Path(directory) / f"{name}{SUFFIX}"
        self._sync_every_s = sync_every_s
        self._max_file_bytes = max_file_bytes
        self._min_file_bytes = min_file_bytes
        self._live: dict[Claim, _Generation] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_dirty = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock_fd = _take_lock(self.path, create=True)
        except BlockingIOError as exc:
            raise StoreUnavailable("journal", f"{self.path} belongs to a live process") from exc
        except OSError as exc:
            raise StoreUnavailable("journal", f"{self.path}: {exc.strerror}") from exc
        if _files_of(self.path):
            os.close(self._lock_fd)
            raise StoreUnavailable("journal", f"{self.path} holds outcomes of a dead process")
        self._number = 0
        self._closing: list[int] = []
        self._generations = [self._next_generation()]
        self._current = self._generations[0]

    # ── the port ──────────────────────────────────────────────────────────────────────────────

    def dot(self, row_id: int, claim_no: int) -> None:
        """Note that the final dot of this row's transaction is about to be sent."""
        self._append(record(DOT, _CLAIM.pack(row_id, claim_no)))
        self._count((row_id, claim_no))

    def outcome(self, outcome: Outcome) -> None:
        """Note an outcome in the turn that read its reply."""
        self._append(record(OUTCOME, encode_outcome(outcome)))
        self._count((outcome.row_id, outcome.claim_no))

    def forget(self, claims: Sequence[Claim]) -> None:
        """Drop what has been settled: (row id, claim number) pairs."""
        known = [claim for claim in claims if claim in self._live]
        if not known:
            return
        with contextlib.suppress(StoreUnavailable):  # replaying what is settled is harmless
            self._append(record(FORGET, b"".join(_CLAIM.pack(*claim) for claim in known)))
        for claim in known:
            generation = self._live.pop(claim, None)
            if generation is not None:
                generation.live -= 1
        self._drop_settled()

    @property
    def unsettled_count(self) -> int:
        """How many claims have a record and are not forgotten."""
        return len(self._live)

    # ── life ──────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Start the thread that calls fdatasync."""
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, name="journal-sync", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop the thread, sync, give the lock back; what is all settled leaves no file."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._lock_fd < 0:
            return
        self._close_old()
        with contextlib.suppress(OSError):
            os.fdatasync(self._current.fd)
        os.close(self._current.fd)
        if not self._live:
            _unlink_all(self.path)
        os.close(self._lock_fd)
        self._lock_fd = -1

    def sync(self) -> None:
        """Make all that was written so far survive the machine."""
        if self._is_dirty:
            self._is_dirty = False
            os.fdatasync(self._current.fd)
        self._close_old()

    def _run(self) -> None:
        while not self._stop.wait(self._sync_every_s):
            with contextlib.suppress(OSError):  # the next write tells the engine
                self.sync()

    def _close_old(self) -> None:
        """Sync and close the descriptors of files that were followed by a new one."""
        while self._closing:
            fd = self._closing.pop(0)
            with contextlib.suppress(OSError):
                os.fdatasync(fd)
            os.close(fd)

    # ── files ─────────────────────────────────────────────────────────────────────────────────

    def _append(self, record: bytes) -> None:
        current = self._current
        if current.size >= self._max_file_bytes or (
            current.size >= self._min_file_bytes and not self._live
        ):
            current = self._turn_over()
        try:
            written = os.write(current.fd, record)
        except OSError as exc:
            raise StoreUnavailable("journal", exc.strerror or str(exc)) from exc
        if written != len(record):
            os.ftruncate(current.fd, current.size)
            raise StoreUnavailable("journal", "the disk is full")
        current.size += written
        self._is_dirty = True

    def _count(self, claim: Claim) -> None:
        if claim not in self._live:
            self._live[claim] = self._current
            self._current.live += 1

    def _turn_over(self) -> _Generation:
        try:
            fresh = self._next_generation()
        except OSError as exc:
            raise StoreUnavailable("journal", exc.strerror or str(exc)) from exc
        self._closing.append(self._current.fd)
        self._generations.append(fresh)
        self._current = fresh
        self._drop_settled()
        return fresh

    def _drop_settled(self) -> None:
        while len(self._generations) > 1 and self._generations[0].live == 0:
            self._generations.pop(0).path.unlink(missing_ok=True)

    def _next_generation(self) -> _Generation:
        self._number += 1
        return _Generation(self.path.with_name(f"{self.path.name}.{self._number:06d}"))


# ── a dead process's journal ──────────────────────────────────────────────────────────────────


def journals(directory: Path) -> list[Path]:
    """Return the journals of a node, of living and of dead processes."""
    return sorted(Path(directory).glob(f"*{SUFFIX}"))


def recover(path: Path) -> Recovery | None:
    """Return what a dead process left, or None while it lives or when it left no journal.

    Reads under the journal's lock, which is given back: the caller settles, then discards; both
    may be repeated, since settling is harmless to repeat.
    """
    try:
        lock_fd = _take_lock(path, create=False)
    except (BlockingIOError, FileNotFoundError):
        return None
    except OSError as exc:
        raise StoreUnavailable("journal", f"{path}: {exc.strerror}") from exc
    try:
        return _replay(_files_of(path))
    except OSError as exc:
        raise StoreUnavailable("journal", f"{path}: {exc.strerror}") from exc
    finally:
        os.close(lock_fd)


def is_held(path: Path) -> bool:
    """Whether a live process holds a journal's lock."""
    try:
        lock_fd = _take_lock(path, create=False)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise StoreUnavailable("journal", f"{path}: {exc.strerror}") from exc
    os.close(lock_fd)
    return False


def discard(path: Path) -> bool:
    """Delete a dead process's journal once it is settled; False while its process lives."""
    try:
        lock_fd = _take_lock(path, create=False)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True
    try:
        _unlink_all(path)
    finally:
        os.close(lock_fd)
    return True


def _take_lock(path: Path, *, create: bool) -> int:
    """Lock a journal; BlockingIOError while another holds it."""
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    while True:
        fd = os.open(path, flags, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The file may have been discarded between open and lock.
            if os.fstat(fd).st_nlink:
                return fd
        except OSError:
            os.close(fd)
            raise
        os.close(fd)


def _files_of(path: Path) -> list[Path]:
    start = f"{path.name}."
    return sorted(p for p in path.parent.iterdir() if p.name.startswith(start))


def _unlink_all(path: Path) -> None:
    """Delete oldest first, so that no entry outlives the note that forgets it; the lock last."""
    for file in [*_files_of(path), path]:
        file.unlink(missing_ok=True)


def _replay(files: Sequence[Path]) -> Recovery:
    entries: dict[Claim, Outcome | None] = {}
    damaged_files = 0
    for file in files:
        raw = file.read_bytes()
        read_bytes, is_understood = 0, True
        for kind, payload, end in whole_records(raw):
            try:
                _apply(entries, kind, payload)
            except SchemaError:
                # Of another version: its dot stays, so its outcome is unknown. The dots behind it
                # must be seen all the same, or their rows would be sent again.
                is_understood = False
            read_bytes = end
        damaged_files += read_bytes != len(raw) or not is_understood
    return Recovery(
        outcomes=[outcome for outcome in entries.values() if outcome is not None],
        dots=[claim for claim, outcome in entries.items() if outcome is None],
        damaged_files=damaged_files,
    )


def _apply(entries: dict[Claim, Outcome | None], kind: int, payload: bytes) -> None:
    if kind == OUTCOME:
        outcome = decode_outcome(payload)
        entries[outcome.row_id, outcome.claim_no] = outcome
    elif kind == DOT:
        entries.setdefault(_CLAIM.unpack(payload), None)
    else:
        for claim in _CLAIM.iter_unpack(payload):
            entries.pop(claim, None)
