"""A gateway to DocumentDB: MongoDB's commands become calls of its SQL functions.

Gives    Gateway, the Answers of one connection; `python -m tests.support.mongo.gateway PORT DSN`
Takes    a PostgreSQL server with the extension documentdb
Raises   CommandError to the client for what the engine refuses or nobody has asked for yet
Follows  the functions of the schema documentdb_api; the engine parses and executes the commands

Each connection has a session of its own. A cursor's rest is kept on the gateway, as the engine
hands it out. There are no transactions, and no replica set: the write concern is that of
PostgreSQL's log.
"""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import bson
import psycopg2
from bson.codec_options import CodecOptions
from bson.int64 import Int64
from psycopg2 import errors

from tests.support.mongo.wire import CommandError, Document, WireServer

_OPTIONS: CodecOptions[Document] = CodecOptions(tz_aware=True)
_CREATE_INDEXES = (
    "SELECT documentdb_api_internal.create_indexes_non_concurrently"
    "(%s, %s::documentdb_core.bson, true)"
)
_FIRST_PAGE = {
    "find": "find_cursor_first_page",
    "aggregate": "aggregate_cursor_first_page",
    "listCollections": "list_collections_cursor_first_page",
    "listIndexes": "list_indexes_cursor_first_page",
}
_WRITES = {
    "insert": "insert",
    "update": "update",
    "delete": "delete",
    "findAndModify": "find_and_modify",
}
_DUPLICATE_KEY, _NOT_SUPPORTED, _OUT_OF_DISK, _CURSOR_GONE = 11000, 59, 14031, 43
_UNSUPPORTED_FIELDS = ("writeConcern", "readConcern", "maxTimeMS")
VERSION = "7.0.0"


@dataclass(frozen=True, slots=True)
class _Rest:
    """What a cursor has left, and the session it began in."""

    text: str
    database: str
    session: Any


class Gateway:
    """One client's commands."""

    def __init__(self, dsn: str) -> None:
        self._session: Any = psycopg2.connect(dsn)
        self._session.autocommit = True

    def close(self) -> None:
        """End the session."""
        self._session.close()

    def answer(self, database: str, command: Document) -> Document:
        """Carry a command out."""
        name = next(iter(command))
        asked = {key: value for key, value in command.items() if key not in _UNSUPPORTED_FIELDS}
        try:
            return self._answer(name, database, asked)
        except errors.DiskFull as exc:
            raise CommandError(_OUT_OF_DISK, str(exc).strip()) from exc
        except psycopg2.OperationalError as exc:
            if self._session.closed:
                raise EOFError from exc  # as if the server had ended
            raise CommandError(_NOT_SUPPORTED, str(exc).strip()) from exc
        except psycopg2.InterfaceError as exc:
            raise EOFError from exc
        except psycopg2.Error as exc:
            text = str(exc).splitlines()[0]
            is_double = isinstance(exc, errors.UniqueViolation) or "uplicate key" in text
            raise CommandError(_DUPLICATE_KEY if is_double else _NOT_SUPPORTED, text) from exc

    def _answer(self, name: str, database: str, command: Document) -> Document:
        if name.lower() in ("hello", "ismaster"):
            return {"localTime": self._now()}
        if name in ("ping", "endSessions", "killCursors"):
            return {"ok": 1.0}
        if name.lower() == "buildinfo":
            numbers = [int(part) for part in VERSION.split(".")]
            return {"version": VERSION, "versionArray": [*numbers, 0], "ok": 1.0}
        if name == "dbStats":
            return _disk()
        if name == "getMore":
            return self._next_page(command)
        if name in _FIRST_PAGE:
            page, rest, _, number = self._call(_FIRST_PAGE[name], database, command)
            answer = _decoded(page)
            if rest is not None:
                answer["cursor"]["id"] = Int64(number)
                _rests[int(number)] = _Rest(rest, database, self._session)
            return answer
        if name in _WRITES:
            return _written(_decoded(self._call(_WRITES[name], database, command)[0]))
        if name == "createIndexes":
            sql = _CREATE_INDEXES
            return _decoded(self._ask(sql, database, _encoded(command))[0])
        if name == "dropDatabase":
            self._ask("SELECT documentdb_api.drop_database(%s)", database)
            return {"ok": 1.0}
        raise CommandError(_NOT_SUPPORTED, f"no such command: {name}")

    def _next_page(self, command: Document) -> Document:
        number = int(command["getMore"])
        found = _rests.pop(number, None)
        if found is None or found.session.closed:
            raise CommandError(_CURSOR_GONE, f"cursor {number} not found")
        sql = "SELECT * FROM documentdb_api.cursor_get_more(%s, %s::documentdb_core.bson, %s)"
        with found.session.cursor() as cursor:
            cursor.execute(sql, (found.database, _encoded(command), found.text))
            page, left = cursor.fetchone()
        answer = _decoded(page)
        answer["cursor"]["id"] = Int64(0 if left is None else number)
        if left is not None:
            _rests[number] = _Rest(left, found.database, found.session)
        return answer

    def _call(self, function: str, database: str, command: Document) -> tuple[Any, ...]:
        sql = f"SELECT * FROM documentdb_api.{function}(%s, %s::documentdb_core.bson)"  # noqa: S608
        return self._ask(sql, database, _encoded(command))

    def _now(self) -> datetime:
        found: datetime = self._ask("SELECT clock_timestamp()")[0]
        return found

    def _ask(self, sql: str, *params: object) -> tuple[Any, ...]:
        with self._session.cursor() as cursor:
            cursor.execute(sql, params or None)
            row: tuple[Any, ...] = cursor.fetchone()
            return row


# What cursors have left, for clients ask on whatever connection is free.
_rests: dict[int, _Rest] = {}


def _encoded(document: Document) -> str:
    return "BSONHEX" + bson.encode(document, codec_options=_OPTIONS).hex()


def _decoded(text: str) -> Document:
    return bson.decode(bytes.fromhex(text[len("BSONHEX") :]), _OPTIONS)


def _written(answer: Document) -> Document:
    """Name what a client has to tell from other errors by MongoDB's number."""
    for fault in answer.get("writeErrors", ()):
        if "uplicate key" in fault.get("errmsg", ""):
            fault["code"] = _DUPLICATE_KEY
    return answer


def _disk() -> Document:
    """Return the room where this process works, which is that of the engine's data."""
    room = os.statvfs(".")
    total = room.f_blocks * room.f_frsize
    used = total - room.f_bavail * room.f_frsize
    return {"fsTotalSize": float(total), "fsUsedSize": float(used), "ok": 1.0}


def main(arguments: list[str]) -> None:
    """Serve until the process is ended."""
    port, dsn = arguments
    WireServer(int(port), lambda: Gateway(dsn)).start()
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1:])
