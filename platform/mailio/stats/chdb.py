"""The client of the process that owns an embedded ClickHouse (chdb), over a local socket.

Gives    ChdbDriver
Takes    chdb+unix:///percent/quoted/path.sock[?database=NAME]
Raises   Fault, StoreUnavailable, SchemaError (see driver.py); ValueError for a bad address

A frame is a 4-byte length, a header in JSON and a body of `body_length` bytes; a connection
carries requests one after the other. Lines of JSON go to the engine as they are, unread. A line
that breaks leaves an INSERT in doubt: it is sent once more, for what we write may be repeated.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from mailcore.ports import StoreUnavailable
from mailio.stats.driver import STORE, Fault, Row, insert_error

CONNECT_S = 5.0
REPLY_S = 60.0
_HEADER_LIMIT = 16 * 1024 * 1024
_KEPT_IDLE = 4
_STOPPING = -3

_SELECT: dict[str, object] = {"output_format_json_quote_64bit_integers": 0}
_INSERT: dict[str, object] = {
    "input_format_skip_unknown_fields": 1,
    "input_format_defaults_for_omitted_fields": 1,
    # An event with an absurd time must not keep the others from being stored.
    "max_partitions_per_insert_block": 0,
}


class _LineBroken(Exception):
    """The connection ended before the answer."""


class ChdbDriver:
    """Connections to the owner; as many as there are threads that ask at once."""

    def __init__(self, url: str, *, reply_s: float = REPLY_S) -> None:
        parts = urlsplit(url)
        options = parse_qs(parts.query, keep_blank_values=True)
        if parts.netloc or not parts.path or set(options) - {"database"}:
            raise ValueError("an address is chdb+unix:///path/of/the/socket?database=NAME")
        self._path = unquote(parts.path)
        self._database = options.get("database", ["default"])[-1] or "default"
        self._reply_s = reply_s
        self._idle: list[socket.socket] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def query(self, sql: str) -> list[Row]:
        """Return the rows of a SELECT."""
        body = self._ask(sql, format="JSONCompactEachRow", settings=_SELECT)
        return [tuple(json.loads(line)) for line in body.splitlines()]

    def execute(self, sql: str) -> None:
        """Run a statement without rows."""
        self._ask(sql)

    def insert(self, table: str, lines: bytes, count: int) -> None:
        """Insert lines of JSON as they are."""
        try:
            self._ask(f"INSERT INTO {table} FORMAT JSONEachRow", lines, settings=_INSERT)
        except Fault as fault:
            raise insert_error(fault) from fault

    def create_database(self) -> None:
        """Make the database of the URL, if it is not there."""
        quoted = self._database.replace("\\", "\\\\").replace("`", "\\`")
        self._ask(f"CREATE DATABASE IF NOT EXISTS `{quoted}`", database="default")

    def close(self) -> None:
        """Close all idle connections; those in use close when they are given back."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _ask(self, sql: str, body: bytes = b"", **header: object) -> bytes:
        header = {"database": self._database, **header}
        head = json.dumps({"query": sql, "body_length": len(body), **header}).encode()
        frame = struct.pack("!I", len(head)) + head
        for is_last in (False, True):
            connection = self._take()
            try:
                answer, result = _exchange(connection, frame, body)
            except TimeoutError as exc:
                connection.close()
                raise StoreUnavailable(STORE, f"no answer within {self._reply_s:g} s") from exc
            except (OSError, ValueError, _LineBroken) as exc:
                connection.close()
                self._drop_idle()
                if is_last:
                    raise StoreUnavailable(STORE, f"the connection broke: {exc}") from exc
                continue
            except BaseException:
                connection.close()
                raise
            return self._read(connection, answer, result)
        raise AssertionError("unreachable")

    def _read(self, connection: socket.socket, answer: dict[str, Any], result: bytes) -> bytes:
        code = int(answer.get("code") or 0)
        if code in (-2, _STOPPING):
            connection.close()
        else:
            self._give_back(connection)
        if answer.get("ok"):
            return result
        reason = str(answer.get("error")).splitlines()[0][:500]
        if code < 0:
            raise StoreUnavailable(STORE, reason)
        raise Fault(code, reason)

    def _take(self) -> socket.socket:
        with self._lock:
            if self._is_closed:
                raise StoreUnavailable(STORE, "the statistics have been closed")
            if self._idle:
                return self._idle.pop()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(CONNECT_S)
            connection.connect(self._path)
            connection.settimeout(self._reply_s)
        except OSError as exc:
            connection.close()
            raise StoreUnavailable(STORE, f"{self._path}: {exc}") from exc
        return connection

    def _give_back(self, connection: socket.socket) -> None:
        with self._lock:
            if not self._is_closed and len(self._idle) < _KEPT_IDLE:
                self._idle.append(connection)
                return
        connection.close()

    def _drop_idle(self) -> None:
        """The owner was restarted: what idles is as dead as what broke."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            with suppress(OSError):
                connection.close()


def _exchange(connection: socket.socket, frame: bytes, body: bytes) -> tuple[dict[str, Any], bytes]:
    connection.sendall(frame)
    if body:
        connection.sendall(body)
    (size,) = struct.unpack("!I", _receive(connection, 4))
    if size > _HEADER_LIMIT:
        raise _LineBroken("an answer of no known form")
    answer = json.loads(_receive(connection, size))
    if not isinstance(answer, dict):
        raise _LineBroken("an answer of no known form")
    return answer, _receive(connection, int(answer.get("body_length") or 0))


def _receive(connection: socket.socket, size: int) -> bytes:
    buffer = bytearray(size)
    view = memoryview(buffer)
    done = 0
    while done < size:
        got = connection.recv_into(view[done:])
        if not got:
            raise _LineBroken("it ended before the answer")
        done += got
    return bytes(buffer)
