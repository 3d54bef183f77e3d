"""An HTTPS server that gives one answer to whatever it is asked, on loopback.

Gives    serving_https (a context with Web: the port, what was asked)
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field


def page(body: bytes, *, status: str = "200 OK", kind: str = "text/plain") -> bytes:
    """Return a whole answer with its length."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@dataclass
class Web:
    """`answer` is sent as it is; None: silence until the client goes. `is_deaf`: what the client
    says after its question, a goodbye as well, is not heard."""

    answer: bytes | None
    is_deaf: bool = False
    port: int = 0
    asked: list[str] = field(default_factory=list)


@contextlib.asynccontextmanager
async def serving_https(web: Web, context: ssl.SSLContext) -> AsyncIterator[Web]:
    """Serve on a free port of 127.0.0.1."""
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            host = next(line for line in lines if line.lower().startswith("host:"))
            web.asked.append(f"{lines[0].rpartition(' ')[0]} {host[5:].strip()}")
            if web.answer is None:
                await reader.read()
            else:
                if web.is_deaf:
                    writer.transport.pause_reading()  # type: ignore[attr-defined]
                writer.write(web.answer)
                await writer.drain()
                if web.is_deaf:
                    await asyncio.Event().wait()
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            if web.is_deaf:
                writer.transport.abort()
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(run(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", web.port, ssl=context)
    web.port = server.sockets[0].getsockname()[1]
    try:
        yield web
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
