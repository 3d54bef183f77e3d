"""A ClickHouse server over its native protocol.

Gives    ClickhouseDriver
Takes    clickhouse://user:password@host:9000/database; clickhouses:// for TLS
Raises   Fault, StoreUnavailable, SchemaError (see driver.py); ValueError for a bad address

The driver wants columns of Python values, so lines of JSON are read here. It must never be given
an INSERT without rows: that waits for ever. Its clients are not thread-safe: each call has one of
its own, kept for the next.
"""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from clickhouse_driver import Client
from clickhouse_driver import errors as driver_errors

from mailcore.errors import SchemaError
from mailcore.events import FIELDS
from mailcore.ports import StoreUnavailable
from mailcore.stats import NO_MESSAGE, NUMBERS
from mailio.stats.driver import STORE, Fault, Row, insert_error

T = TypeVar("T")
CONNECT_S = 5.0
REPLY_S = 60.0
_KEPT_IDLE = 4
_PORT, _TLS_PORT = 9000, 9440
_PLAIN_VALUE = (TypeError, AttributeError, struct.error, UnicodeError, OverflowError, KeyError)


class ClickhouseDriver:
    """Connections to a server; as many as there are threads that ask at once."""

    def __init__(self, url: str, *, reply_s: float = REPLY_S, connect_s: float = CONNECT_S) -> None:
        parts = urlsplit(url)
        if not parts.hostname or parts.query or parts.path.count("/") > 1:
            raise ValueError("an address is clickhouse://user:password@host:port/database")
        is_tls = parts.scheme == "clickhouses"
        self._database = unquote(parts.path.lstrip("/")) or "default"
        self._options: dict[str, Any] = {
            "host": parts.hostname,
            "port": parts.port or (_TLS_PORT if is_tls else _PORT),
            "user": unquote(parts.username or "default"),
            "password": unquote(parts.password or ""),
            "secure": is_tls,
            "connect_timeout": connect_s,
            "send_receive_timeout": reply_s,
            "sync_request_timeout": connect_s,
            "client_name": "postfleet",
        }
        self._idle: list[Client] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def query(self, sql: str) -> list[Row]:
        """Return the rows of a SELECT."""
        return list(self._with_client(lambda client: client.execute(sql)))

    def execute(self, sql: str) -> None:
        """Run a statement without rows."""
        self._with_client(lambda client: client.execute(sql))

    def insert(self, table: str, lines: bytes, count: int) -> None:
        """Insert lines of JSON as columns."""
        if not lines.strip():
            return
        names, columns = _columns(lines)
        sql = f"INSERT INTO {table} ({', '.join(names)}) VALUES"
        try:
            self._with_client(lambda client: client.execute(sql, columns, columnar=True))
        except Fault as fault:
            raise insert_error(fault) from fault
        except SchemaError:
            raise
        except (*_PLAIN_VALUE, ValueError) as exc:
            raise SchemaError(f"the table of events refuses a value: {exc}") from exc

    def create_database(self) -> None:
        """Make the database of the URL, if it is not there."""
        name = self._database.replace("\\", "\\\\").replace("`", "\\`")
        client = self._connect("default")
        try:
            self._run(client, lambda c: c.execute(f"CREATE DATABASE IF NOT EXISTS `{name}`"))
        finally:
            client.disconnect()

    def close(self) -> None:
        """Close all idle connections; those in use close when they are given back."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for client in idle:
            client.disconnect()

    def _with_client(self, work: Callable[[Client], T]) -> T:
        with self._lock:
            if self._is_closed:
                raise StoreUnavailable(STORE, "the statistics have been closed")
            client = self._idle.pop() if self._idle else None
        client = client or self._connect(self._database)
        try:
            result = self._run(client, work)
        except Fault:
            self._give_back(client)
            raise
        except BaseException:
            # Whatever it was, nobody knows what the server will say next on this line.
            with suppress(Exception):
                client.disconnect()
            raise
        self._give_back(client)
        return result

    def _connect(self, database: str) -> Client:
        # Needed by servers of 2018, known and without effect on all since.
        settings = {"allow_experimental_low_cardinality_type": 1}
        return Client(database=database, settings=settings, **self._options)

    @staticmethod
    def _run(client: Client, work: Callable[[Client], T]) -> T:
        try:
            return work(client)
        except driver_errors.TypeMismatchError as exc:
            raise SchemaError(f"the table of events refuses a value: {exc.message}") from exc
        except driver_errors.ServerException as exc:
            raise Fault(int(exc.code or 0), str(exc.message).splitlines()[0][:500]) from exc
        except driver_errors.Error as exc:
            raise StoreUnavailable(STORE, str(exc)[:500]) from exc
        except (OSError, EOFError) as exc:
            raise StoreUnavailable(STORE, f"the connection broke: {exc}") from exc

    def _give_back(self, client: Client) -> None:
        with self._lock:
            if not self._is_closed and len(self._idle) < _KEPT_IDLE:
                self._idle.append(client)
                return
        client.disconnect()


def _columns(lines: bytes) -> tuple[list[str], list[list[Any]]]:
    """Return the names and columns of lines of JSON, those that are not empty throughout."""
    try:
        # A line end inside a text is escaped: each of these ends an event.
        rows = json.loads(b"[%s]" % lines.rstrip(b"\n").replace(b"\n", b","))
    except ValueError as exc:
        raise SchemaError(f"an event is no JSON: {exc}") from exc
    if {type(row) for row in rows} != {dict}:
        raise SchemaError("an event is no JSON object")
    used = set().union(*rows)
    names: list[str] = []
    columns: list[list[Any]] = []
    for name in ("event_id", *(n for n in FIELDS if n in used and n != "event_id")):
        empty: int | str = 0 if name in NUMBERS else ""
        column = [row.get(name, empty) for row in rows]
        if {type(value) for value in column} != {type(empty)}:
            raise SchemaError(f"{name}: an event has a value of another type")
        names.append(name)
        columns.append(column)
    if "message_id" in names:
        at = names.index("message_id")
        columns[at] = [value or NO_MESSAGE for value in columns[at]]
    return names, columns
