"""The frames of the chdb owner: requests read and checked, responses written.

Takes    a stream; the protocol is written down in `embedded/chdb_owner.py`
Gives    Request, response headers, ClickHouse literals
Raises   RequestError for what the engine must not see
Follows  ClickHouse's TabSeparated escaping, in which query parameters are read
"""

import json
import re
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO, Self

HEADER_LIMIT = 16 * 1024 * 1024
BODY_LIMIT = 512 * 1024 * 1024

MALFORMED = -1
TOO_LARGE = -2
UNAVAILABLE = -3

# Made by the client library from the result of an embedded engine; no bytes to send.
OBJECT_FORMATS = ("dataframe", "arrowtable", "arrowstream")
STATEMENT = re.compile(r"(?:\s+|--[^\n]*\n|/\*.*?\*/)*(\w+)", re.DOTALL)
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\0": "\\0"})


class RequestError(Exception):
    """A request that is refused before the engine sees it."""

    def __init__(self, code: int, text: str, *, closes: bool = False) -> None:
        super().__init__(text)
        self.code = code
        self.closes = closes


@dataclass(frozen=True, slots=True)
class Request:
    query: str
    body: bytes
    format: str
    database: str
    settings: Mapping[str, object]
    params: Mapping[str, object]

    @classmethod
    def parse(cls, header: Mapping[str, object], body: bytes) -> Self:
        request = cls(
            _text(header, "query", ""),
            body,
            _text(header, "format", "JSONEachRow"),
            _text(header, "database", "default"),
            _object(header, "settings"),
            _object(header, "params"),
        )
        if not request.query.strip():
            raise RequestError(MALFORMED, "query: it is empty")
        if request.verb in ("SET", "USE"):
            raise RequestError(
                MALFORMED, f"query: {request.verb} is refused, use `settings` or `database`"
            )
        if request.format.lower() in OBJECT_FORMATS:
            raise RequestError(MALFORMED, f"format: {request.format} cannot be sent")
        return request

    @property
    def verb(self) -> str:
        match = STATEMENT.match(self.query)
        return match[1].upper() if match else ""

    @property
    def statement(self) -> bytes:
        query = self.query.encode()
        return query + b"\n" + self.body if self.body else query


def _text(header: Mapping[str, object], name: str, default: str) -> str:
    value = header.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        raise RequestError(MALFORMED, f"{name}: a text is wanted")
    return value


def _object(header: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = header.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RequestError(MALFORMED, f"{name}: an object is wanted")
    return value


def read_request(stream: BinaryIO) -> Request | None:
    """Return the next request, None at the end of the connection."""
    prefix = stream.read(4)
    if len(prefix) < 4:
        return None
    (size,) = struct.unpack("!I", prefix)
    if size > HEADER_LIMIT:
        text = f"the header has {size} bytes, at most {HEADER_LIMIT} are taken"
        raise RequestError(TOO_LARGE, text, closes=True)
    try:
        header = json.loads(stream.read(size))
    except ValueError as exc:
        raise RequestError(MALFORMED, f"the header is not JSON: {exc}", closes=True) from exc
    if not isinstance(header, dict):
        raise RequestError(MALFORMED, "the header is not a JSON object", closes=True)
    length = header.get("body_length", 0)
    if not isinstance(length, int) or isinstance(length, bool) or length < 0:
        raise RequestError(MALFORMED, "body_length: a count of bytes is wanted", closes=True)
    if length > BODY_LIMIT:
        text = f"the body has {length} bytes, at most {BODY_LIMIT} are taken"
        raise RequestError(TOO_LARGE, text, closes=True)
    body = stream.read(length)
    if len(body) < length:
        return None
    return Request.parse(header, body)


def quote_name(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def setting_literal(name: str, value: object) -> str:
    if not IDENTIFIER.fullmatch(name):
        raise RequestError(MALFORMED, f"settings: {name!r} is not a name")
    if isinstance(value, bool):
        return f"{name} = {int(value)}"
    if isinstance(value, int | float):
        return f"{name} = {value}"
    if isinstance(value, str):
        return f"{name} = {_quoted(value)}"
    raise RequestError(MALFORMED, f"settings: {name} is neither a text nor a number")


def param_text(name: str, value: object) -> str:
    """Return a parameter in the escaped form that ClickHouse reads parameters in."""
    if value is None:
        return "\\N"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return value.translate(ESCAPES)
    if isinstance(value, list):
        parts = [_quoted(v) if isinstance(v, str) else param_text(name, v) for v in value]
        return f"[{','.join(parts)}]"
    raise RequestError(MALFORMED, f"params: {name} is neither text, number, null nor a list")


def _quoted(text: str) -> str:
    return "'" + text.translate(ESCAPES).replace("'", "\\'") + "'"


def success(rows: int, elapsed: float, length: int) -> dict[str, object]:
    head = {"ok": True, "error": None, "code": 0, "rows": rows, "elapsed": elapsed}
    return {**head, "body_length": length}


def failure(code: int, text: str) -> dict[str, object]:
    return {"ok": False, "error": text, "code": code, "rows": 0, "elapsed": 0.0, "body_length": 0}


def send_frame(connection: socket.socket, header: Mapping[str, object], body: bytes) -> None:
    encoded = json.dumps(header).encode()
    connection.sendall(struct.pack("!I", len(encoded)) + encoded + body)
