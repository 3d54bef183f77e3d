"""The commands our spool gives MongoDB, carried out in memory behind one lock.

Gives    Double: url(), start(), stop(), cut(); ahead_s, a clock that can be put forward; script(),
         for an error at the next command of a name; free_bytes; collection(), to look and to spoil
Takes    a free port
Raises   CommandError to the client for what no test of ours has asked for

It knows the operators named here and refuses all others, so a statement that it passes is one that
was looked at; whether MongoDB sees it the same way, make test-mongodb says.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import bson
from bson.int64 import Int64

from tests.support.mongo.wire import CommandError, Document, WireServer

Collection = dict[Any, Document]

MAX_DOCUMENT_BYTES = 16 * 2**20
MAX_REPLY_BYTES = 16_000_000
DUPLICATE_KEY = 11000
DISK_BYTES = 2**40

_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "$lt": lambda value, bound: value is not None and value < bound,
    "$lte": lambda value, bound: value is not None and value <= bound,
    "$gt": lambda value, bound: value is not None and value > bound,
    "$gte": lambda value, bound: value is not None and value >= bound,
    "$in": lambda value, bound: value in set(bound),
}


class Double:
    """A server that forgets everything when it is gone."""

    def __init__(self, port: int) -> None:
        self.ahead_s = 0.0
        self.free_bytes: int | None = DISK_BYTES // 2
        self.commands: list[Document] = []
        self._lock = threading.Lock()
        self._collections: dict[tuple[str, str], Collection] = {}
        self._cursors: dict[int, deque[Document]] = {}
        self._numbers = itertools.count(1)
        self._scripted: dict[str, deque[Document]] = {}
        self._wire = WireServer(port, lambda: _Session(self))

    def url(self, database: str = "spool") -> str:
        """Return the address of a database."""
        return f"mongodb://127.0.0.1:{self._wire.port}/{database}"

    def start(self) -> None:
        """Listen; what it had is there."""
        self._wire.start()

    def stop(self) -> None:
        """Listen no more."""
        self._wire.stop()

    def cut(self) -> None:
        """End every connection."""
        self._wire.cut()

    def start_silence(self) -> None:
        """Answer nobody until `end_silence`."""
        self._lock.acquire()

    def end_silence(self) -> None:
        """Answer again."""
        self._lock.release()

    def script(self, name: str, answer: Document) -> None:
        """Answer the next command of this name so, and do not carry it out."""
        with self._lock:
            self._scripted.setdefault(name, deque()).append(answer)

    def collection(self, name: str, *, database: str = "spool") -> Collection:
        """Return the documents of a collection, by their `_id`."""
        return self._collections.setdefault((database, name), {})

    def now(self) -> datetime:
        """Return the server's time, to the millisecond as BSON has it."""
        now = datetime.now(UTC) + timedelta(seconds=self.ahead_s)
        return now.replace(microsecond=now.microsecond // 1000 * 1000)

    def answer(self, database: str, command: Document) -> Document:
        """Carry a command out."""
        name, value = next(iter(command.items()))
        with self._lock:
            if self._scripted.get(name):
                return self._scripted[name].popleft()
            if name not in ("hello", "isMaster", "ismaster", "endSessions"):
                self.commands.append(command)
            method = getattr(self, f"_{name.lower()}", None)
            if method is None:
                raise CommandError(59, f"no such command: {name}")
            where = (database, value if isinstance(value, str) else "")
            found = method(self._collections.setdefault(where, {}), command)
            return {"ok": 1.0, **found}

    # ── commands ──────────────────────────────────────────────────────────────────────────────

    def _hello(self, _: Collection, command: Document) -> Document:
        return {"localTime": self.now()}

    _ismaster = _hello

    def _ping(self, _: Collection, command: Document) -> Document:
        return {}

    _endsessions = _ping

    def _buildinfo(self, _: Collection, command: Document) -> Document:
        return {"version": "7.0.0", "versionArray": [7, 0, 0, 0]}

    def _dbstats(self, _: Collection, command: Document) -> Document:
        if self.free_bytes is None:
            return {}
        return {"fsTotalSize": DISK_BYTES, "fsUsedSize": DISK_BYTES - self.free_bytes}

    def _createindexes(self, _: Collection, command: Document) -> Document:
        if any(one["expireAfterSeconds"] != 0 for one in command["indexes"]):
            raise CommandError(59, "only indexes of times at which documents go")
        return {}

    def _dropdatabase(self, _: Collection, command: Document) -> Document:
        self._collections.clear()
        return {}

    def _insert(self, rows: Collection, command: Document) -> Document:
        faults = []
        for index, one in enumerate(command["documents"]):
            if len(bson.encode(one)) > MAX_DOCUMENT_BYTES:
                raise CommandError(10334, "BSONObjectTooLarge")
            if one["_id"] in rows:
                text = f"E11000 duplicate key: {one['_id']}"
                faults.append({"index": index, "code": DUPLICATE_KEY, "errmsg": text})
                if command.get("ordered", True):
                    break
            else:
                rows[one["_id"]] = one
        done = {"n": len(command["documents"]) - len(faults)}
        return {**done, "writeErrors": faults} if faults else done

    def _find(self, rows: Collection, command: Document) -> Document:
        found = list(_matching(rows, command.get("filter", {})))
        for key, order in reversed(command.get("sort", {}).items()):
            found.sort(key=lambda one: (isinstance(one[key], str), one[key]), reverse=order < 0)
        if limit := command.get("limit", 0):
            found = found[:limit]
        wanted = command.get("projection")
        if wanted:
            found = [{k: v for k, v in one.items() if k == "_id" or k in wanted} for one in found]
        number = next(self._numbers)
        self._cursors[number] = deque(found)
        return self._page(number, "firstBatch", command["find"])

    def _getmore(self, _: Collection, command: Document) -> Document:
        number = int(command["getMore"])
        if number not in self._cursors:
            raise CommandError(43, f"cursor {number} not found")
        return self._page(number, "nextBatch", command["collection"])

    def _page(self, number: int, name: str, collection: str) -> Document:
        rest, size = self._cursors[number], 0
        batch: list[Document] = []
        while rest and (not batch or size + len(bson.encode(rest[0])) <= MAX_REPLY_BYTES):
            batch.append(rest.popleft())
            size += len(bson.encode(batch[-1]))
        if not rest:
            del self._cursors[number]
        cursor = {"id": Int64(number if rest else 0), "ns": f"x.{collection}", name: batch}
        return {"cursor": cursor}

    def _update(self, rows: Collection, command: Document) -> Document:
        count, born = 0, []
        for index, one in enumerate(command["updates"]):
            found = list(_matching(rows, one["q"]))[: None if one.get("multi") else 1]
            for row in found:
                self._change(row, one["u"])
            if not found and one.get("upsert"):
                row = self._new(rows, one["q"], one["u"])
                born.append({"index": index, "_id": row["_id"]})
            count += len(found)
        return {"n": count + len(born), "nModified": count, **({"upserted": born} if born else {})}

    def _findandmodify(self, rows: Collection, command: Document) -> Document:
        found = next(iter(_matching(rows, command["query"])), None)
        before = None if found is None else dict(found)
        if found is not None:
            self._change(found, command["update"])
        elif command.get("upsert"):
            found = self._new(rows, command["query"], command["update"])
        return {"value": dict(found) if command.get("new") and found is not None else before}

    def _delete(self, rows: Collection, command: Document) -> Document:
        count = 0
        for one in command["deletes"]:
            found = list(_matching(rows, one["q"]))[: one["limit"] or None]
            for row in found:
                del rows[row["_id"]]
            count += len(found)
        return {"n": count}

    def _new(self, rows: Collection, condition: Document, change: Document) -> Document:
        row = {"_id": condition["_id"]}
        self._change(row, change)
        rows[row["_id"]] = row
        return row

    def _change(self, row: Document, change: Document) -> None:
        if not any(key.startswith("$") for key in change):
            key = row["_id"]
            row.clear()
            row |= {"_id": key, **change}
            return
        for operator, fields in change.items():
            for name, value in fields.items():
                if operator == "$set":
                    row[name] = value
                elif operator == "$inc":
                    row[name] = row.get(name, 0) + value
                elif operator == "$max":
                    row[name] = max(row.get(name, value), value)
                elif operator == "$currentDate":
                    row[name] = self.now()
                else:
                    raise CommandError(9, f"unknown operator {operator}")


class _Session:
    """One connection; it has nothing of its own."""

    def __init__(self, double: Double) -> None:
        self._double = double

    def answer(self, database: str, command: Document) -> Document:
        return self._double.answer(database, command)

    def close(self) -> None:
        pass


def _matching(rows: Collection, condition: Document) -> Iterable[Document]:
    wanted = condition.get("_id")
    if isinstance(wanted, dict) and set(wanted) == {"$in"}:
        near = [rows[key] for key in wanted["$in"] if key in rows]
    elif wanted is not None and not isinstance(wanted, dict):
        near = [rows[wanted]] if wanted in rows else []
    else:
        near = list(rows.values())
    return [one for one in near if all(_meets(one.get(k), v) for k, v in condition.items())]


def _meets(value: Any, wanted: Any) -> bool:
    if not isinstance(wanted, dict):
        return bool(value == wanted)
    unknown = set(wanted) - set(_COMPARE)
    if unknown:
        raise CommandError(2, f"unknown operator {unknown}")
    return all(_COMPARE[name](value, bound) for name, bound in wanted.items())
