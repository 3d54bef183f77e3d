"""A server of MongoDB's wire protocol, whatever answers its commands.

Gives    WireServer: port, start(), stop(), cut(); CommandError; HELLO, what every hello says
Takes    Answers, one for each connection: a command in, its answer out
Raises   OSError when it cannot listen
Follows  the MongoDB wire protocol: OP_MSG (2013) with sections 0 and 1, OP_QUERY (2004) for the
         first hello
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

import bson
from bson.codec_options import CodecOptions

Document = dict[str, Any]

_HEADER = struct.Struct("<iiii")
_REPLY = struct.Struct("<iqii")
_OP_REPLY, _OP_QUERY, _OP_MSG = 1, 2004, 2013
_CHECKSUM, _MORE_TO_COME = 1, 2
_OPTIONS: CodecOptions[Document] = CodecOptions(tz_aware=True)
HELLO: Mapping[str, Any] = {
    "helloOk": True,
    "ismaster": True,
    "isWritablePrimary": True,
    "maxBsonObjectSize": 16 * 2**20,
    "maxMessageSizeBytes": 48_000_000,
    "maxWriteBatchSize": 100_000,
    "minWireVersion": 0,
    "maxWireVersion": 21,
    "readOnly": False,
    "ok": 1.0,
}
# What belongs to sessions and read preferences; neither server has any.
_NOT_ASKED = frozenset({"lsid", "$clusterTime", "$readPreference", "txnNumber", "$db"})


class CommandError(Exception):
    """A command failed, as a server says so."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Answers(Protocol):
    """What answers the commands of one connection."""

    def answer(self, database: str, command: Document) -> Document:
        """Carry a command out. Raises CommandError."""
        ...

    def close(self) -> None:
        """The connection has ended."""
        ...


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, opened: Callable[[], Answers]) -> None:
        self.opened = opened
        self.lines: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Line)


class _Line(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        """Answer until the client goes."""
        self.server.lines.add(self.request)
        answers = self.server.opened()
        try:
            with contextlib.suppress(EOFError, OSError):
                self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while True:
                    self._turn(answers)
        finally:
            self.server.lines.discard(self.request)
            answers.close()

    def _turn(self, answers: Answers) -> None:
        length, number, _, kind = _HEADER.unpack(self._read(_HEADER.size))
        body = self._read(length - _HEADER.size)
        if kind == _OP_QUERY:
            start = body.index(b"\0", 4) + 9
            (size,) = struct.unpack_from("<i", body, start)
            command = bson.decode(body[start : start + size], _OPTIONS)
            reply = _REPLY.pack(8, 0, 0, 1) + bson.encode(_answered(answers, "admin", command))
            self._send(number, _OP_REPLY, reply)
            return
        if kind != _OP_MSG:
            raise EOFError
        (flags,) = struct.unpack_from("<I", body)
        command = _sections(body[4 : len(body) - (4 if flags & _CHECKSUM else 0)])
        reply = bson.encode(_answered(answers, str(command.get("$db", "admin")), command))
        if not flags & _MORE_TO_COME:
            self._send(number, _OP_MSG, b"\0\0\0\0\0" + reply)

    def _send(self, number: int, kind: int, body: bytes) -> None:
        header = _HEADER.pack(_HEADER.size + len(body), next(_numbers) & 0x7FFFFFFF, number, kind)
        self.request.sendall(header + body)

    def _read(self, size: int) -> bytes:
        parts = []
        while size:
            part = self.request.recv(min(size, 2**20))
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


_numbers = itertools.count(1)


def _sections(body: bytes) -> Document:
    """Return the command of a message, its document sequences under their names."""
    command: Document = {}
    sequences: Document = {}
    at = 0
    while at < len(body):
        kind = body[at]
        (size,) = struct.unpack_from("<i", body, at + 1)
        part = body[at + 1 : at + 1 + size]
        if kind == 0:
            command = bson.decode(part, _OPTIONS)
        else:
            name, _, documents = part[4:].partition(b"\0")
            sequences[name.decode()] = bson.decode_all(documents, _OPTIONS)
        at += 1 + size
    return command | sequences


def _answered(answers: Answers, database: str, command: Document) -> Document:
    name = next(iter(command))
    asked = {key: value for key, value in command.items() if key not in _NOT_ASKED}
    try:
        if name.lower() in ("hello", "ismaster"):
            return {**HELLO, "localTime": datetime.now(UTC)} | answers.answer(database, asked)
        return answers.answer(database, asked)
    except CommandError as exc:
        return {"ok": 0.0, "errmsg": str(exc), "code": exc.code}


class WireServer:
    """Listens on loopback on threads of its own."""

    def __init__(self, port: int, opened: Callable[[], Answers]) -> None:
        self.port = port
        self._opened = opened
        self._server: _Server | None = None

    def start(self) -> None:
        """Listen, and return at once."""
        server = self._server = _Server(self.port, self._opened)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Listen no more, and end every connection."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            self._end_lines(server)

    def cut(self) -> None:
        """End every connection, in the middle of what it does; go on listening."""
        if self._server is not None:
            self._end_lines(self._server)

    @staticmethod
    def _end_lines(server: _Server) -> None:
        for line in list(server.lines):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
