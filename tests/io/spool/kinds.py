"""Every kind of spool behind the port, for tests that ask the same of all.

Gives    Place: spool(), shelf(), claim(), flip(), age_all(); Files, Mongo
Takes    a directory; the address of a database
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from mailcore.envelope import ContentRef
from mailio.shelves import SegmentDirectory
from mailio.spool.files import segment_path
from mailio.spool.mark import claim
from mailio.spool.mongo_records import keys_of
from mailio.spool.mongo_shelf import MongoShelf
from mailio.spool.mongo_store import MongoStore
from mailio.spool.mongodb import MongoSpool
from mailio.spool.opening import Shelf, Spool
from mailio.spool.segments import SegmentSpool

# What is as old is let go by every grace time.
LONG_S = 100_000.0


class Place(Protocol):
    """Where content is kept in a test."""

    @property
    def is_shared(self) -> bool:
        """Whether nodes may share it."""
        ...

    def spool(self, **options: Any) -> Spool:
        """Open it as a process that writes and reads."""
        ...

    def shelf(self) -> Shelf:
        """Open it as upkeep does."""
        ...

    def claim(self, installation: str) -> None:
        """Mark it, or see that it is marked so."""
        ...

    def flip(self, ref: ContentRef) -> None:
        """Damage a content where it lies."""
        ...

    def age_all(self) -> None:
        """Let all that is there be as if nobody had touched it for long."""
        ...


@dataclass
class Files:
    """A directory."""

    directory: Path
    stack: ExitStack
    is_shared: bool = False
    ahead_s: float = 0.0

    def spool(self, **options: Any) -> Spool:
        spool = SegmentSpool(self.directory, **{"min_free_bytes": 0, **options})
        self.stack.callback(spool.close)
        return spool

    def shelf(self) -> Shelf:
        shelf = SegmentDirectory(
            self.directory, copy_floor_bytes=0, wall=lambda: time.time() + self.ahead_s
        )
        self.stack.callback(shelf.close)
        return shelf

    def claim(self, installation: str) -> None:
        claim(self.directory, installation)

    def flip(self, ref: ContentRef) -> None:
        path = segment_path(self.directory, ref.segment)
        raw = bytearray(path.read_bytes())
        raw[ref.offset + 8] ^= 0x20
        path.write_bytes(raw)

    def age_all(self) -> None:
        self.ahead_s = LONG_S


@dataclass
class Mongo:
    """A database."""

    url: str
    stack: ExitStack
    is_shared: bool = True

    def store(self) -> MongoStore:
        store = MongoStore(self.url)
        self.stack.callback(store.close)
        return store

    def spool(self, **options: Any) -> Spool:
        spool = MongoSpool(self.store(), **{"min_free_bytes": 0, **options})
        self.stack.callback(spool.close)
        return spool

    def shelf(self) -> Shelf:
        shelf = MongoShelf(self.store(), copy_floor_bytes=0)
        self.stack.callback(shelf.close)
        return shelf

    def claim(self, installation: str) -> None:
        self.store().claim(installation)

    def flip(self, ref: ContentRef) -> None:
        contents = self.store().contents
        key = keys_of(ref)[0]
        found = contents.find_one({"_id": key})
        assert found is not None
        spoilt = bytes([found["data"][0] ^ 0x20]) + found["data"][1:]
        contents.update_one({"_id": key}, {"$set": {"data": spoilt}})

    def age_all(self) -> None:
        store = self.store()
        old = store.now() - timedelta(seconds=LONG_S)
        for one in store.segments.find():
            store.segments.update_one({"_id": one["_id"]}, {"$set": {"at": old}})
