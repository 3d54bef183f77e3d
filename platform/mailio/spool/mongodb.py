"""The spool in MongoDB, for nodes that share one: group commit and read back.

Gives    MongoSpool (ports SpoolWriter and SpoolReader), the counterpart of segments.SegmentSpool
Takes    a MongoStore
Raises   StoreFull when content cannot be made durable for want of room, StoreUnavailable when for
         another cause
Layout   mongo_records.py; a document of `segments` says who writes to a segment and since when not

A process writes segments of its own, as it does files: what all threads brought goes out in one
insert, which a majority has in its journal when it returns. Nobody can see from outside whether a
process lives, so an open segment is *abandoned* once its document has not been touched for a while;
who writes touches it often. A process that stood still for longer (stopped, or its machine was
suspended) finds its segment taken away and opens another; what it had stored for rows that it wrote
in the meantime it looks for before it acknowledges them, and stores again where it is missing.
After an error a segment is never written to again: what was half written there no reference names.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
import uuid
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from mailcore.envelope import ContentRef
from mailcore.ports import StoreFull, StoreUnavailable
from mailio.spool.files import WRITERS
from mailio.spool.group import GroupCommit
from mailio.spool.mongo_records import (
    CHUNK_BYTES,
    KEEP,
    RECORD_BYTES,
    content_of,
    documents_of,
    keys_of,
    portions,
)
from mailio.spool.mongo_store import STORE, Document, LineLost, MongoStore, told
from mailio.spool.room import floor_bytes

# An open segment is touched this often while it is written to, and counts as abandoned after that
# long; a process that held content for longer than is sure looks whether it is still there.
TOUCH_S = 20.0
SURE_S = 60.0
ABANDONED_S = 180.0
_ROOM_S = 10.0
_MOST_BATCH_BYTES = 32 * 2**20

log = logging.getLogger(__name__)


def steady_time() -> float:
    """Return seconds that go on while the machine is suspended, as the server's do."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(slots=True)
class _Segment:
    """The segment this process writes. `end` is where the next record goes."""

    number: int
    gone_at: datetime
    opened_at: float
    touched_at: float
    written_at: float
    end: int = 0


@dataclass(frozen=True, slots=True)
class _Checked:
    """Content with the checksum made by the thread that brought it."""

    content: bytes
    crc: int
    is_urgent: bool


class _Holding(threading.local):
    """What a thread stored since it began to hold; None while it does not."""

    stored: list[tuple[ContentRef, bytes]] | None = None


class MongoSpool:
    """Content in a database. Safe for threads; one object per process, and in its forked children.

    The arguments are those of SegmentSpool; `store` is closed with it.
    """

    def __init__(
        self,
        store: MongoStore,
        *,
        writer: int | None = None,
        max_segment_bytes: int = 64 * 2**20,
        max_segment_age_s: float = 600.0,
        max_idle_s: float = 60.0,
        min_free_bytes: int | Callable[[], int] = 256 * 2**20,
        owner: Callable[[], str] | None = None,
        chunk_bytes: int = CHUNK_BYTES,
        read_threads: int = 2,
        monotonic: Callable[[], float] = steady_time,
    ) -> None:
        self._store = store
        self._writer = writer
        self._max_segment_bytes = max_segment_bytes
        self._max_segment_age_s = max_segment_age_s
        self._max_idle_s = max_idle_s
        self._min_free_bytes = min_free_bytes
        self._owner = owner
        self._chunk_bytes = chunk_bytes
        self._read_threads = read_threads
        self._monotonic = monotonic
        self._begin()
        this = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _begin_in_child(this))

    def _begin(self) -> None:
        """Be as one who has written nothing yet: a child has segments and threads of its own."""
        self._life = uuid.uuid4().hex
        self._segment_lock = threading.Lock()
        self._segment: _Segment | None = None
        self._holding = _Holding()
        self._holders = 0
        self._closed: list[_Segment] = []
        self._room: tuple[float, int] | None = None
        self._sealer: threading.Thread | None = None
        self._ending = threading.Event()
        self._group: GroupCommit[Sequence[_Checked], list[ContentRef]] = GroupCommit(
            self._commit,
            weigh=lambda group: sum(len(one.content) for one in group),
            max_weight=_MOST_BATCH_BYTES,
        )
        self._readers = ThreadPoolExecutor(self._read_threads, thread_name_prefix="spool-read")

    # ── writing ───────────────────────────────────────────────────────────────────────────────

    def append(self, contents: Sequence[bytes], *, is_urgent: bool = False) -> Sequence[ContentRef]:
        """Store each; return when all are durable. Raises StoreUnavailable."""
        if not contents:
            return []
        refs = self._group.submit([_Checked(c, zlib.crc32(c), is_urgent) for c in contents])
        if self._holding.stored is not None:
            self._holding.stored += zip(refs, contents, strict=True)
        return refs

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """See to it that what this thread appends inside is there at the end, however long that
        takes: until its rows are there only this process knows of it."""
        began = self._monotonic()
        stored: list[tuple[ContentRef, bytes]] = []
        self._holding.stored = stored
        with self._segment_lock:
            self._holders += 1
        try:
            yield
            if stored and self._monotonic() - began > SURE_S:
                self._confirm(stored)
        finally:
            self._holding.stored = None
            with self._segment_lock:
                self._holders -= 1
                while self._closed and not self._holders:
                    self._let_go(self._closed.pop())

    def seal(self) -> None:
        """Finish the segment this process writes; the next append opens a new one."""
        with self._segment_lock:
            self._close_segment()

    def close(self) -> None:
        """Seal, stop the threads, and disconnect."""
        self.seal()
        self._ending.set()
        self._readers.shutdown(wait=True)
        self._store.close()

    def _commit(self, groups: Sequence[Sequence[_Checked]]) -> list[list[ContentRef]]:
        with self._segment_lock:
            try:
                return self._store_all(groups)
            except LineLost:
                # The server was started again, or another one leads. What may have been stored
                # there no reference names.
                return self._store_all(groups)

    def _store_all(self, groups: Sequence[Sequence[_Checked]]) -> list[list[ContentRef]]:
        segment = self._writable([one for group in groups for one in group])
        documents: list[Document] = []
        result: list[list[ContentRef]] = []
        for group in groups:
            refs: list[ContentRef] = []
            for one in group:
                ref = ContentRef(segment.number, segment.end, len(one.content), one.crc)
                documents += self._documents(ref, one.content, segment.gone_at)
                segment.end += RECORD_BYTES + ref.length
                refs.append(ref)
            result.append(refs)
        try:
            with told():
                self._store.contents.insert_many(documents, ordered=False)
        except StoreUnavailable:
            self._segment = None
            raise
        segment.written_at = self._monotonic()
        return result

    def _documents(
        self, ref: ContentRef, content: bytes, gone_at: datetime, life: int = 0
    ) -> list[Document]:
        return documents_of(ref, content, gone_at=gone_at, life=life, chunk_bytes=self._chunk_bytes)

    def _writable(self, contents: Sequence[_Checked]) -> _Segment:
        """Return the segment to write to, a new one when it is time. Under the segment lock."""
        now = self._monotonic()
        segment = self._segment
        if segment is not None and (
            segment.end >= self._max_segment_bytes
            or now - segment.opened_at >= self._max_segment_age_s
        ):
            self._close_segment()
            segment = None
        if segment is not None and now - segment.touched_at >= TOUCH_S and not self._touch(segment):
            log.warning("segment taken away: we stood still", extra={"segment": segment.number})
            segment = None
        self._check_room(contents, now)
        if segment is None:
            segment = self._segment = self._create_segment()
            self._watch()
        return segment

    def _check_room(self, contents: Sequence[_Checked], now: float) -> None:
        """Refuse before anything is written what would leave less free than must stay: a server
        whose disk is full ends."""
        if self._room is None or now - self._room[0] >= _ROOM_S:
            room = self._store.room()
            self._room = (now, room.free_bytes if room is not None else 2**62)
        kept = floor_bytes(self._min_free_bytes, is_urgent=all(one.is_urgent for one in contents))
        free_bytes = self._room[1]
        if free_bytes < kept + sum(len(one.content) for one in contents):
            self._room = None  # who asks again wants to know
            raise StoreFull(STORE, f"only {free_bytes >> 20} MB of MongoDB's disk are left")

    def _create_segment(self) -> _Segment:
        self._store.prepare()
        if self._owner is not None:
            self._store.claim(self._owner())
        began, at = self._monotonic(), self._store.now()
        unix_ms = int(at.timestamp() * 1000)
        writer = (os.getpid() if self._writer is None else self._writer) % WRITERS
        segment = _Segment(unix_ms * WRITERS + writer, at + KEEP, began, began, began)
        new = {"open": True, "dying": False, "writer": self._life, "size": 0, "life": 0}
        new |= {"at": at, "gone_at": segment.gone_at}
        while True:
            with told(), contextlib.suppress(DuplicateKeyError):
                self._store.segments.insert_one({"_id": segment.number, **new})
                return segment
            segment.number += WRITERS

    def _touch(self, segment: _Segment) -> bool:
        """Say that we are still here; return False if the segment was taken away."""
        began = self._monotonic()
        with told():
            done = self._store.segments.update_one(
                {"_id": segment.number, "writer": self._life, "open": True},
                {"$set": {"size": segment.end}, "$currentDate": {"at": True}},
            )
        segment.touched_at = began
        return done.matched_count == 1

    def _confirm(self, stored: Sequence[tuple[ContentRef, bytes]]) -> None:
        """Look for content that was stored long ago and has its rows only now."""
        for number in sorted({ref.segment for ref, _ in stored}):
            with told():
                done = self._store.segments.update_one(
                    {"_id": number, "dying": False}, {"$currentDate": {"at": True}}
                )
            if done.matched_count == 0:
                self._store_again(number, [one for one in stored if one[0].segment == number])

    def _store_again(self, number: int, stored: Sequence[tuple[ContentRef, bytes]]) -> None:
        """Bring content back that was deleted while this process stood still, under the names that
        rows have. Who may still be deleting it leaves what has another life."""
        gone_at = self._store.now() + KEEP
        end = max(ref.offset + ref.length for ref, _ in stored) + RECORD_BYTES
        state = {"open": False, "dying": False, "writer": self._life, "gone_at": gone_at}
        with told():
            found = self._store.segments.find_one_and_update(
                {"_id": number},
                {
                    "$set": state,
                    "$inc": {"life": 1},
                    "$max": {"size": end},
                    "$currentDate": {"at": True},
                },
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
            life = int(found["life"]) if found is not None else 1
            for ref, content in stored:
                for one in self._documents(ref, content, gone_at, life):
                    self._store.contents.replace_one({"_id": one["_id"]}, one, upsert=True)
        log.error("we stood still; content is stored again", extra={"segment": number})

    # ── sealing ───────────────────────────────────────────────────────────────────────────────

    def _watch(self) -> None:
        """See to it that the segment is sealed when nobody writes. Under the segment lock."""
        if self._max_idle_s == float("inf") and self._max_segment_age_s == float("inf"):
            return
        if self._sealer is None or not self._sealer.is_alive():
            self._sealer = threading.Thread(target=self._seal_idle, name="spool-seal", daemon=True)
            self._sealer.start()

    def _seal_idle(self) -> None:
        """Seal what has been idle or open for too long; end with the segment."""
        left: float | None = 0.0
        while left is not None and not self._ending.wait(left):
            with self._segment_lock:
                left = self._seal_in()
                if left is None:
                    self._sealer = None

    def _seal_in(self) -> float | None:
        """Return in how many seconds to look again; None once there is nothing to seal."""
        segment = self._segment
        if segment is None:
            return None
        left = min(
            segment.written_at + self._max_idle_s, segment.opened_at + self._max_segment_age_s
        )
        left -= self._monotonic()
        if left > 0:
            return min(left, 3600.0)
        self._close_segment()
        return None

    def _close_segment(self) -> None:
        segment, self._segment = self._segment, None
        if segment is None:
            return
        if self._holders:
            self._closed.append(segment)  # grace counts from when they have let go
        else:
            self._let_go(segment)

    def _let_go(self, segment: _Segment) -> None:
        """Say that nobody writes to it any more. Nobody will if this cannot be said: it counts as
        abandoned soon."""
        with contextlib.suppress(StoreUnavailable), told():
            self._store.segments.update_one(
                {"_id": segment.number, "writer": self._life, "open": True},
                {"$set": {"open": False, "size": segment.end}, "$currentDate": {"at": True}},
            )

    # ── reading ───────────────────────────────────────────────────────────────────────────────

    async def read_many(self, refs: Sequence[ContentRef]) -> Sequence[bytes | None]:
        """Return the bytes of each, None for what is missing or damaged."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self.read_now, refs)

    def read_now(self, refs: Sequence[ContentRef]) -> list[bytes | None]:
        """The same on the calling thread, one question for many."""
        read: list[bytes | None] = []
        for part in portions(refs):
            try:
                found = self._find(part)
            except LineLost:
                found = self._find(part)
            read += [content_of(ref, found, chunk_bytes=self._chunk_bytes) for ref in part]
        return read

    def _find(self, refs: Sequence[ContentRef]) -> dict[str, object]:
        keys = list(
            {key: None for ref in refs for key in keys_of(ref, chunk_bytes=self._chunk_bytes)}
        )
        with told():
            found = self._store.contents.find({"_id": {"$in": keys}}, {"data": True})
            return {one["_id"]: one["data"] for one in found}


def _begin_in_child(this: weakref.ref[MongoSpool]) -> None:
    spool = this()
    if spool is not None:
        spool._begin()
