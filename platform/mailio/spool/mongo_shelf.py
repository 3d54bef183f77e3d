"""A shared spool in MongoDB, as the upkeep that sweeps it sees it.

Gives    MongoShelf, the port SpoolShelf
Takes    a MongoStore; who sweeps must be alone (mailcore.ports.SpoolLedger.lead)
Raises   StoreUnavailable, StoreFull for a copy or a mark without room

A segment that is to go is first marked as dying, if nothing has happened to it since it was listed;
then its documents go, then its own. A kill in between leaves a dying one, which the next sweep
takes up. Ages are the server's, so it does not matter which node looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from pymongo import ASCENDING, DESCENDING

from mailcore.envelope import ContentRef
from mailcore.ports import StoreUnavailable
from mailcore.spool import DiskSpace, Inventory, SegmentInfo, SpoolMark
from mailio.spool.files import WRITERS
from mailio.spool.mongo_records import end_of, segment_keys
from mailio.spool.mongo_store import STORE, Document, MongoStore, told
from mailio.spool.mongodb import ABANDONED_S, MongoSpool

_ENDLESS = float("inf")


class MongoShelf:
    """All segments of a database, and a writer of its own for copies; see SegmentDirectory."""

    def __init__(self, store: MongoStore, *, copy_floor_bytes: int) -> None:
        self._store = store
        self._spool = MongoSpool(
            store,
            min_free_bytes=copy_floor_bytes,
            max_segment_age_s=_ENDLESS,
            max_idle_s=_ENDLESS,
        )
        self._listed: dict[int, datetime] = {}

    def inventory(self) -> Inventory:
        """Return what lies in the database. Segments whose writer is gone are sealed."""
        now = self._store.now()
        segments: list[SegmentInfo] = []
        foreign: list[str] = []
        self._listed = {}
        with told():
            found = list(self._store.segments.find().sort("_id", ASCENDING))
        for one in found:
            info = self._info(one, now)
            if info is None:
                foreign.append(str(one.get("_id"))[:200])
            else:
                segments.append(info)
                self._listed[info.number] = one["at"]
        return Inventory(segments, foreign)

    def _info(self, one: Document, now: datetime) -> SegmentInfo | None:
        """Return what a document of `segments` tells, None if it is none of ours."""
        number, at, size = one.get("_id"), one.get("at"), one.get("size")
        if not isinstance(number, int) or not isinstance(at, datetime) or not isinstance(size, int):
            return None
        age_s = (now - at).total_seconds()
        is_open = bool(one.get("open", True))
        if is_open and age_s > ABANDONED_S:
            is_open, size = False, self._seal_abandoned(number, at)
        return SegmentInfo(number, size, age_s, not is_open, number // WRITERS)

    def _seal_abandoned(self, number: int, at: datetime) -> int:
        """Write the size of a segment whose writer did not; return it."""
        with told():
            last = self._store.contents.find_one(
                segment_keys(number), {"size": True}, sort=[("_id", DESCENDING)]
            )
            size = 0 if last is None else end_of(last["_id"], int(last["size"]))
            self._store.segments.update_one(
                {"_id": number, "at": at}, {"$set": {"open": False, "size": size}}
            )
        return size

    def mark(self) -> SpoolMark | None:
        """Return what the database is marked with, None if nobody did."""
        return self._store.mark()

    def write_mark(self, new: SpoolMark) -> None:
        """Mark the database."""
        self._store.write_mark(new)

    def delete(self, segments: Iterable[int]) -> Sequence[int]:
        """Delete those that nobody writes to and that have not changed since they were listed;
        return which."""
        return [number for number in segments if self._delete(number)]

    def _delete(self, number: int) -> bool:
        wanted: dict[str, Any] = {"_id": number, "open": False}
        if number in self._listed:
            wanted["at"] = self._listed[number]
        with told():
            found = self._store.segments.find_one_and_update(wanted, {"$set": {"dying": True}})
            if found is None:
                return False
            own = {**segment_keys(number), "life": {"$lte": int(found["life"])}}
            self._store.contents.delete_many(own)
            self._store.segments.delete_one({"_id": number, "dying": True})
        return True

    def spare(self, segment: int, *, age_s: float) -> None:
        """Let a segment count as so old and no older."""
        at = self._store.now() - timedelta(seconds=age_s)
        with told():
            self._store.segments.update_one({"_id": segment}, {"$set": {"at": at}})

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
        """Return the room on the server's disk."""
        room = self._store.room()
        if room is None:
            raise StoreUnavailable(STORE, "MongoDB does not tell the room on its disk (dbStats)")
        return room

    def close(self) -> None:
        """Disconnect."""
        self._spool.close()
