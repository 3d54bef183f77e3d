"""The database of a shared spool: who connects, what lies where, what its errors mean.

Gives    MongoStore: contents, segments, and mark of a database; now, room, prepare, claim; told,
         which turns the driver's errors into ours; LineLost; describe, ping for who only looks
Takes    a mongodb:// URL that names the database
Raises   StoreUnavailable("spool", reason) for what may pass with time, LineLost, a kind of it, when
         a connection broke under a command; StoreFull when the server has no room

A client starts threads and holds sockets, so each process has its own: a forked child opens
another when it first asks, and leaves its parent's alone. All writes are acknowledged by a majority
that has them in its journal, whatever the URL says, and all reads ask the primary.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

from pymongo import ASCENDING, MongoClient, ReadPreference, WriteConcern
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    DuplicateKeyError,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)

from mailcore.ports import StoreFull, StoreUnavailable
from mailcore.spool import DiskSpace, SpoolMark

Document = dict[str, Any]

STORE = "spool"
# Unless the URL has its own: how long to look for a primary, to connect, and to wait for an answer.
TIMES_MS = {
    "serverSelectionTimeoutMS": 5_000,
    "connectTimeoutMS": 5_000,
    "socketTimeoutMS": 20_000,
    "waitQueueTimeoutMS": 10_000,
}
_MAJORITY_MS = 10_000
_POOL = 16
# Out of disk; over the quota of a hosted cluster.
_FULL = frozenset({14031, 8000})
_INDEX = "gone_at"
_REASON_CHARS = 300


class LineLost(StoreUnavailable):
    """The connection broke under a command: nobody knows whether it was carried out."""


class MongoStore:
    """One spool's database, as this process sees it. Safe for threads."""

    _clients_of_parents: ClassVar[list[MongoClient[Document]]] = []

    def __init__(self, url: str, *, times_ms: Mapping[str, int] = TIMES_MS) -> None:
        self._url = url
        self._times_ms = dict(times_ms)
        self._client: MongoClient[Document] | None = None
        self._pid = 0
        self._is_prepared = False

    # ── what there is ─────────────────────────────────────────────────────────────────────────

    @property
    def contents(self) -> Collection[Document]:
        """Content, in documents of at most CHUNK_BYTES."""
        return self._database["contents"]

    @property
    def segments(self) -> Collection[Document]:
        """A document for each segment: whose it is, how large, whether it may grow."""
        return self._database["segments"]

    @property
    def _marks(self) -> Collection[Document]:
        return self._database["mark"]

    @property
    def _database(self) -> Database[Document]:
        concern = WriteConcern("majority", wtimeout=_MAJORITY_MS, j=True)
        return (
            self._connected()
            .get_default_database()
            .with_options(read_preference=ReadPreference.PRIMARY, write_concern=concern)
        )

    def _connected(self) -> MongoClient[Document]:
        if self._client is None or self._pid != os.getpid():
            if self._client is not None:
                self._clients_of_parents.append(self._client)  # to be closed by its own process
            self._client = connect(self._url, times_ms=self._times_ms)
            self._pid = os.getpid()
            self._is_prepared = False
        return self._client

    def close(self) -> None:
        """Close this process's client; the next call opens another."""
        client, self._client = self._client, None
        if client is not None and self._pid == os.getpid():
            client.close()

    # ── what it tells ─────────────────────────────────────────────────────────────────────────

    def now(self) -> datetime:
        """Return the server's time, the same for all nodes."""
        with told():
            return _time_of(self._connected().admin.command("hello"))

    def room(self) -> DiskSpace | None:
        """Return the room on the server's disk, of the fullest of its shards; None if it does not
        tell."""
        with told():
            return _room_of(self._database)

    # ── whose it is ───────────────────────────────────────────────────────────────────────────

    def prepare(self) -> None:
        """Make the indexes, once for each process."""
        if not self._is_prepared:
            with told():
                for one in (self.contents, self.segments):
                    one.create_index([(_INDEX, ASCENDING)], expireAfterSeconds=0)
            self._is_prepared = True

    def mark(self) -> SpoolMark | None:
        """Return what the database is marked with, None if nobody did; a mark that cannot be
        understood is nobody's we know."""
        with told():
            found = self._marks.find_one({"_id": "mark"})
        if found is None:
            return None
        try:
            return SpoolMark(str(found["installation"]), str(found["node"]), int(found["sweeps"]))
        except (KeyError, TypeError, ValueError):
            return SpoolMark("")

    def write_mark(self, mark: SpoolMark) -> None:
        """Mark the database, whatever it was marked with."""
        with told():
            self._marks.replace_one({"_id": "mark"}, asdict(mark), upsert=True)

    def claim(self, installation: str) -> None:
        """Mark a database that nobody has marked; refuse one that is another installation's."""
        if self.mark() is None:
            with told(), suppress(DuplicateKeyError):  # who was faster, shows below
                self._marks.insert_one({"_id": "mark", **asdict(SpoolMark(installation))})
        found = self.mark()
        if found is None or found.installation != installation:
            reason = (
                "the database is marked by another installation, or DATABASE_URL names another"
                " database; see docs/operate/spool.md"
            )
            raise StoreUnavailable(STORE, reason)


def connect(url: str, *, times_ms: Mapping[str, int]) -> MongoClient[Document]:
    """Return a client that never waits without end. Nothing is connected before it is used."""
    given = {name.lower() for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True)}
    options: dict[str, Any] = {**times_ms, "appname": "postfleet", "maxPoolSize": _POOL}
    kept = {name: value for name, value in options.items() if name.lower() not in given}
    with told():
        return MongoClient(url, connect=False, tz_aware=True, **kept)


def ping(url: str, *, timeout_s: float) -> None:
    """See that there is a primary that lets us in."""
    _ask(url, timeout_s, lambda database: database.command("ping"))


def room_of(url: str, *, timeout_s: float) -> DiskSpace | None:
    """Return the room on the server's disk, None if it does not tell."""
    found: DiskSpace | None = _ask(url, timeout_s, _room_of)
    return found


def describe(url: str, *, timeout_s: float) -> tuple[str, str]:
    """Return the server's version and the name of the database; log in and read a document."""

    def look(database: Database[Document]) -> tuple[str, str]:
        database["mark"].find_one({"_id": "mark"})
        return str(database.client.server_info()["version"]), database.name

    found: tuple[str, str] = _ask(url, timeout_s, look)
    return found


def _room_of(database: Database[Document]) -> DiskSpace | None:
    found = database.command("dbStats", freeStorage=0)
    rooms = [room for one in _servers(found) if (room := _room(one)) is not None]
    return min(rooms, key=lambda room: room.free_bytes, default=None)


def _ask(url: str, timeout_s: float, question: Callable[[Database[Document]], Any]) -> Any:
    limit_ms = int(timeout_s * 1000)
    client = connect(url, times_ms=dict.fromkeys(TIMES_MS, limit_ms))
    try:
        with told():
            return question(client.get_default_database())
    finally:
        client.close()


# ── errors ────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def told() -> Iterator[None]:
    """Raise the driver's errors as ours."""
    try:
        yield
    except PyMongoError as exc:
        reason = f"MongoDB: {_reason(exc)}"
        if _codes(exc) & _FULL:
            raise StoreFull(STORE, reason) from exc
        if isinstance(exc, AutoReconnect) and not isinstance(
            exc, NetworkTimeout | ServerSelectionTimeoutError
        ):
            raise LineLost(STORE, reason) from exc
        raise StoreUnavailable(STORE, reason) from exc


def _codes(exc: PyMongoError) -> set[int]:
    """Return the codes an error holds: its own, or those of each write of a batch."""
    found = {exc.code} if isinstance(exc, OperationFailure) and exc.code is not None else set()
    return found | {int(one.get("code", 0)) for one in _parts(exc)}


def _parts(exc: PyMongoError) -> list[Mapping[str, Any]]:
    if not isinstance(exc, BulkWriteError):
        return []
    details = exc.details
    return [*details.get("writeErrors", ()), *details.get("writeConcernErrors", ())]


def _reason(exc: PyMongoError) -> str:
    parts = _parts(exc)
    text = str(parts[0].get("errmsg", exc)) if parts else str(exc)
    # The driver goes on with the whole topology.
    text = text.partition(", Timeout:")[0].partition(", full error:")[0]
    return " ".join(text.split())[:_REASON_CHARS] or type(exc).__name__


def _time_of(hello: Mapping[str, Any]) -> datetime:
    at = hello.get("localTime")
    if not isinstance(at, datetime):
        raise StoreUnavailable(STORE, "MongoDB does not tell its time (hello)")
    return at.replace(tzinfo=UTC)  # commands are decoded without it


def _servers(stats: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the statistics of each server: a router tells those of its shards under `raw`."""
    raw = stats.get("raw")
    return list(raw.values()) if isinstance(raw, Mapping) and raw else [stats]


def _room(stats: Mapping[str, Any]) -> DiskSpace | None:
    try:
        total, used = int(stats["fsTotalSize"]), int(stats["fsUsedSize"])
    except (KeyError, TypeError, ValueError):
        return None
    return DiskSpace(total, max(0, total - used), 0, 0)
