"""A line to a service that can be cut for some processes and not for others.

Gives    Line: url, cut(), mend(); close()
Takes    the URL of a service on loopback
Raises   OSError when it cannot listen

Who is at the other end of a connection is read in /proc, by the inode of its socket. A cut line is
silent, as a network that lost its way is, or broken, as one whose other end is gone; while it is
cut no new connection of these processes comes through.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from control.management.fleet.killing import connections_of

T = TypeVar("T")

LOOPBACK = "127.0.0.1"
_CHUNK = 65536
# Closing it sends RST: nothing is waited for, nothing is said.
_AT_ONCE = struct.pack("ii", 1, 0)


@dataclass(eq=False, slots=True)
class _Connection:
    """Both ends of one, and whether bytes may pass."""

    peer: str
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    is_open: asyncio.Event = field(default_factory=asyncio.Event)

    def reset(self) -> None:
        for writer in self.writers:
            found = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            writer.transport.abort()


class Line:
    """One service, reached through us."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.port is not None
        self._target = (parts.hostname or LOOPBACK, parts.port)
        self._connections: set[_Connection] = set()
        self._cut: frozenset[int] = frozenset()
        self._is_silent = True
        self._loop = asyncio.new_event_loop()
        self._ending = asyncio.Event()
        self._listener = socket.create_server((LOOPBACK, 0), backlog=256)
        self.port = int(self._listener.getsockname()[1])
        user = parts.netloc.rpartition("@")[0]
        netloc = f"{user}@{LOOPBACK}:{self.port}" if user else f"{LOOPBACK}:{self.port}"
        self.url = urlunsplit(parts._replace(netloc=netloc))
        self._thread = threading.Thread(target=self._run, name=f"line {self.port}", daemon=True)
        self._thread.start()

    def cut(self, pids: Iterable[int], *, is_silent: bool) -> int:
        """Cut these processes off until `mend`; return how many connections they had."""
        return self._call(self._cut_off(frozenset(pids), is_silent=is_silent))

    def mend(self) -> None:
        """Let everybody through again; what was silent goes on where it stopped."""
        self._call(self._mend())

    def close(self) -> None:
        """End every connection and listen no more."""
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(10)

    # ── in the thread of the loop ─────────────────────────────────────────────────────────────

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._listen())
        finally:
            self._loop.close()

    async def _listen(self) -> None:
        server = await asyncio.start_server(self._serve, sock=self._listener)
        async with server:
            await self._ending.wait()
        for one in list(self._connections):
            one.reset()
        serving = asyncio.all_tasks() - {asyncio.current_task()}
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        # What was reset is closed in the next turn.
        await asyncio.sleep(0)

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _cut_off(self, pids: frozenset[int], *, is_silent: bool) -> int:
        self._cut, self._is_silent = pids, is_silent
        hit = [one for one in self._connections if one.peer in self._peers()]
        for one in hit:
            if is_silent:
                one.is_open.clear()
            else:
                one.reset()
        return len(hit)

    async def _mend(self) -> None:
        self._cut = frozenset()
        for one in self._connections:
            one.is_open.set()

    def _peers(self) -> frozenset[str]:
        """Return the other ends that belong to who is cut off."""
        found: set[str] = set()
        for pid in self._cut:
            with contextlib.suppress(OSError):  # it ended
                found |= connections_of(pid, self.port)
        return frozenset(found)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = writer.get_extra_info("peername")[:2]
        one = _Connection(f"{host}:{port}", [writer])
        one.is_open.set()
        self._connections.add(one)
        try:
            if self._cut and one.peer in self._peers():
                if not self._is_silent:
                    return
                one.is_open.clear()
                await one.is_open.wait()
            there, back = await asyncio.open_connection(*self._target)
            one.writers.append(back)
            await asyncio.gather(_pump(reader, back, one), _pump(there, writer, one))
        except OSError:
            pass
        finally:
            self._connections.discard(one)
            one.reset()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, one: _Connection
) -> None:
    while data := await reader.read(_CHUNK):
        await one.is_open.wait()
        writer.write(data)
        await writer.drain()
    await one.is_open.wait()
    writer.close()
