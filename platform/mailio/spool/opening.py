"""The spool that SPOOL_URL names: segment files of a node, or a database that nodes share.

Gives    open_spool, open_shelf; Spool, Shelf: what both kinds are
Takes    settings
Raises   SettingsError for a URL of another kind

The driver is loaded only by who uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from mailcore.envelope import ContentRef
from mailcore.ports import SpoolReader, SpoolShelf, SpoolWriter
from mailio.settings import Settings
from mailio.shelves import COPY_FLOOR_BYTES, SegmentDirectory
from mailio.spool.segments import SegmentSpool

MIN_FREE_BYTES = 256 * 2**20


class Spool(SpoolReader, SpoolWriter, Protocol):
    """Content, as a process writes and reads it."""

    def read_now(self, refs: Sequence[ContentRef]) -> list[bytes | None]:
        """Return the bytes of each, None for what is missing or damaged; on the calling thread."""
        ...

    def seal(self) -> None:
        """Finish the segment this process writes; the next append opens a new one."""
        ...

    def close(self) -> None:
        """Seal, and stop the threads."""
        ...


class Shelf(SpoolShelf, Protocol):
    """A spool as upkeep sees it, until it is closed."""

    def close(self) -> None:
        """Let go of everything."""
        ...


def open_spool(
    settings: Settings,
    *,
    min_free_bytes: int | Callable[[], int] = MIN_FREE_BYTES,
    owner: Callable[[], str] | None = None,
) -> Spool:
    """Return the spool of this process. Nothing is opened or connected before it is used."""
    if settings.has_shared_spool:
        from mailio.spool.mongo_store import MongoStore
        from mailio.spool.mongodb import MongoSpool

        store = MongoStore(settings.spool_url)
        return MongoSpool(store, min_free_bytes=min_free_bytes, owner=owner)
    return SegmentSpool(settings.spool_dir, min_free_bytes=min_free_bytes, owner=owner)


def open_shelf(settings: Settings) -> Shelf:
    """Return the spool as upkeep sees it."""
    if settings.has_shared_spool:
        from mailio.spool.mongo_shelf import MongoShelf
        from mailio.spool.mongo_store import MongoStore

        return MongoShelf(MongoStore(settings.spool_url), copy_floor_bytes=COPY_FLOOR_BYTES)
    return SegmentDirectory(settings.spool_dir)
