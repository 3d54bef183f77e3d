"""Listen for clients that speak TLS at once, and count each before its handshake.

Gives    TlsListener: start, close, sockets
Takes    an address, a maker of sessions, the door that counts, the certificate
Raises   OSError: an address that cannot be listened on
Follows  RFC 8314 §3.3 (implicit TLS)

A server of asyncio tells of such a client only once its handshake is over. Whoever never begins
one would be held by nobody's limit.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine

from mailio.smtp_door import Door
from mailio.smtp_session import SmtpSession

log = logging.getLogger(__name__)
# As asyncio waits when the process has no more descriptors.
_RETRY_S = 1.0


class TlsListener:
    """One address, of which each meaning has a socket."""

    def __init__(
        self,
        make: Callable[[str], SmtpSession],
        *,
        door: Door,
        context: ssl.SSLContext,
        handshake_s: float,
    ) -> None:
        self._make = make
        self._door = door
        self._context = context
        self._handshake_s = handshake_s
        self._tasks: set[asyncio.Task[None]] = set()
        self.sockets: list[socket.socket] = []

    def start(self, host: str, port: int, *, backlog: int) -> None:
        """Listen."""
        kind, flags = socket.SOCK_STREAM, socket.AI_PASSIVE
        found = [(one[0], one[4]) for one in socket.getaddrinfo(host, port, type=kind, flags=flags)]
        try:
            for family, address in dict.fromkeys(found):
                one = socket.create_server(address, family=family, backlog=backlog)
                one.setblocking(False)
                self.sockets.append(one)
        except OSError:
            for one in self.sockets:
                one.close()
            raise
        for one in self.sockets:
            self._begin(self._accept(one))

    def close(self) -> None:
        """Take no more clients; who has no session yet is cut off."""
        for task in self._tasks:
            task.cancel()

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listener:
            while True:
                try:
                    connection, peer = await loop.sock_accept(listener)
                except OSError as exc:
                    log.error("a connection cannot be taken", extra={"reason": str(exc)})
                    await asyncio.sleep(_RETRY_S)
                    continue
                self._admit(connection, str(peer[0]))
                # A crowd must not keep the sessions from their turn.
                await asyncio.sleep(0)

    def _admit(self, connection: socket.socket, address: str) -> None:
        refusal = self._door.enter(address)
        if refusal is None:
            self._begin(self._secure(connection, address))
            return
        # Told without a word: an answer in clear is none here.
        log.info("session refused", extra={"client": address, "reply": str(refusal)})
        connection.close()

    async def _secure(self, connection: socket.socket, address: str) -> None:
        session = self._make(address)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: session,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=self._handshake_s,
            )
        except OSError as exc:
            log.info("TLS failed", extra={"client": address, "reason": str(exc)})
        finally:
            if not session.has_begun:
                self._door.leave(address)
                connection.close()
