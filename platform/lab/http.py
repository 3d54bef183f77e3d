"""A small HTTP/1.1 server for the lab's control API: loopback, one request per connection.

Gives    HttpServer, Request, Response, HttpError, Handler
Takes    a handler from method and path to a response; bodies up to MAX_BODY_BYTES
Raises   OSError when the port cannot be bound; a handler raises HttpError to refuse
Follows  RFC 9112 (messages), RFC 9457 (problem documents)
"""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from lab.sockets import bind_all

MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 1024 * 1024
REQUEST_TIMEOUT_S = 10.0

log = logging.getLogger(__name__)


class HttpError(Exception):
    """A request that is refused: status, reason, and the field at fault if there is one."""

    def __init__(self, status: HTTPStatus, detail: str, *, pointer: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.pointer = pointer


@dataclass(frozen=True, slots=True)
class Request:
    """One request, read whole."""

    method: str
    path: str
    query: dict[str, str]
    body: bytes

    def json_object(self) -> dict[str, Any]:
        """Return the body as a JSON object, or refuse the request."""
        try:
            value = json.loads(self.body or b"{}")
        except ValueError as exc:
            raise HttpError(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {exc}") from exc
        if not isinstance(value, dict):
            raise HttpError(HTTPStatus.BAD_REQUEST, "the body must be a JSON object", pointer="")
        return value


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; `stream` takes the place of `body` when the length is not known."""

    body: bytes = b""
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    stream: AsyncIterator[bytes] | None = None

    @classmethod
    def of_json(cls, value: object, status: HTTPStatus = HTTPStatus.OK) -> "Response":
        """Return a JSON answer."""
        return cls(json.dumps(value).encode() + b"\n", status)


Handler = Callable[[Request], Awaitable[Response]]


class HttpServer:
    """Serve a handler on one port of 127.0.0.1."""

    def __init__(self, handler: Handler, *, port: int = 0) -> None:
        self.port = port
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen."""
        (listener,) = bind_all(["127.0.0.1"], self.port, socket.SOCK_STREAM)
        self.port = listener.getsockname()[1]
        self._server = await asyncio.start_server(self._serve, sock=listener, limit=MAX_HEAD_BYTES)

    async def stop(self) -> None:
        """Stop listening; what is being answered is cut off."""
        if self._server is None:
            return
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            await _write(writer, await self._respond(reader))
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the client is gone
        finally:
            writer.close()

    async def _respond(self, reader: asyncio.StreamReader) -> Response:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                request = await _read(reader)
            return await self._handler(request)
        except HttpError as exc:
            return _problem(exc.status, exc.detail, exc.pointer)
        except TimeoutError:
            return _problem(HTTPStatus.REQUEST_TIMEOUT, "the request did not come in time", None)
        except (ConnectionError, asyncio.IncompleteReadError):
            raise
        except Exception:
            log.exception("control request failed")
            return _problem(
                HTTPStatus.INTERNAL_SERVER_ERROR, "a fault of the lab, see its log", None
            )


def _problem(status: HTTPStatus, detail: str, pointer: str | None) -> Response:
    document: dict[str, object] = {"type": "about:blank", "title": status.phrase}
    document |= {"status": status.value, "detail": detail}
    if pointer is not None:
        document["pointer"] = pointer
    body = json.dumps(document).encode() + b"\n"
    return Response(body, status, "application/problem+json")


async def _read(reader: asyncio.StreamReader) -> Request:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as exc:
        raise HttpError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head is too long") from exc
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise HttpError(HTTPStatus.BAD_REQUEST, "the request line is malformed")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if "transfer-encoding" in headers:
        raise HttpError(HTTPStatus.LENGTH_REQUIRED, "give the body a Content-Length")
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise HttpError(HTTPStatus.BAD_REQUEST, "Content-Length is not a number")
    if int(length) > MAX_BODY_BYTES:
        detail = f"the body is over {MAX_BODY_BYTES} bytes"
        raise HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
    url = urlsplit(words[1])
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    return Request(words[0], unquote(url.path), query, await reader.readexactly(int(length)))


async def _write(writer: asyncio.StreamWriter, response: Response) -> None:
    headers = {"Content-Type": response.content_type, "Connection": "close", **response.headers}
    if response.stream is None:
        headers["Content-Length"] = str(len(response.body))
    else:
        headers["Transfer-Encoding"] = "chunked"
    head = f"HTTP/1.1 {response.status.value} {response.status.phrase}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(head.encode("latin-1", "replace") + b"\r\n" + response.body)
    if response.stream is not None:
        async for part in response.stream:
            writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")
    await writer.drain()
