"""POP3: how the product reads its mailboxes in the lab.

Gives    MailboxServer: start(), stop(), port, tls_port
Takes    mailboxes by user with their passwords, a TLS context for STLS and for TLS from the start
Raises   OSError when a port cannot be had
Follows  RFC 1939, RFC 2449 (CAPA, response codes, pipelining), RFC 2595 §4 (STLS), RFC 3206 (AUTH)

A reader that goes without QUIT has deleted nothing, and one mailbox has one reader at a time.
"""

import asyncio
import contextlib
import functools
import hmac
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from lab.maildrop import Mail, Maildrop
from lab.sockets import bind_all

MAX_LINE_BYTES = 512
MAX_UNREAD_BYTES = 64 * 1024
MAX_FAILED_LOGINS = 3
IDLE_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 2.0
_CAPABILITIES = ("USER", "TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING")


class Sorry(Exception):
    """A command that is answered -ERR."""


class MailboxServer:
    """Serves mailboxes on two ports of 127.0.0.1: plain with STLS, and TLS from the start."""

    def __init__(
        self,
        drops: Mapping[str, tuple[str, Maildrop]],
        context: ssl.SSLContext,
        *,
        certificate: Path,
        port: int = 0,
        tls_port: int = 0,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
    ) -> None:
        self.port = port
        self.tls_port = tls_port
        self.drops = drops
        self.context = context
        self.idle_timeout_s = idle_timeout_s
        self.certificate = certificate  # for a reader that verifies
        self.sessions: set[PopSession] = set()
        self._servers: list[asyncio.Server] = []

    async def start(self) -> None:
        """Listen."""
        self.port = await self._listen(self.port, is_tls=False)
        self.tls_port = await self._listen(self.tls_port, is_tls=True)

    async def _listen(self, port: int, *, is_tls: bool) -> int:
        (listener,) = bind_all(["127.0.0.1"], port, socket.SOCK_STREAM)
        server = await asyncio.get_running_loop().create_server(
            functools.partial(PopSession, self, is_tls=is_tls),
            sock=listener,
            ssl=self.context if is_tls else None,
        )
        self._servers.append(server)
        found: int = listener.getsockname()[1]
        return found

    async def stop(self) -> None:
        """Stop listening and drop who reads."""
        for server in self._servers:
            server.close()
        for session in list(self.sessions):
            session.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                while self.sessions:
                    await asyncio.sleep(0.001)
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()


class PopSession(asyncio.Protocol):
    """One reader."""

    def __init__(self, server: MailboxServer, *, is_tls: bool) -> None:
        self._server = server
        self._is_tls = is_tls
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._user: str | None = None
        self._failed_logins = 0
        self._drop: Maildrop | None = None
        self._mails: list[Mail] = []
        self._deleted: set[int] = set()
        self._is_blocked = False  # the reader does not take what we write
        self._is_upgrading = False
        self._is_over = False
        self._upgrade: asyncio.Task[None] | None = None
        self._last_input = time.monotonic()
        self._idle_timer: asyncio.TimerHandle | None = None

    # -- the line ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.sessions.add(self)
        self._watch_idle()
        self._ok("the lab's mailboxes")

    def data_received(self, data: bytes) -> None:
        self._last_input = time.monotonic()
        self._buffer += data
        self._pump()
        if len(self._buffer) > MAX_UNREAD_BYTES and self._is_blocked:
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        self._is_blocked = True

    def resume_writing(self) -> None:
        self._is_blocked = False
        self._transport.resume_reading()
        self._pump()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._leave()
        self._server.sessions.discard(self)

    def abort(self) -> None:
        """Drop the line; uvloop tells nobody of one lost in the middle of a handshake."""
        self._transport.abort()
        if self._upgrade is not None and self._is_upgrading:
            self._upgrade.cancel()
            self.connection_lost(None)

    def _pump(self) -> None:
        while not (self._is_blocked or self._is_upgrading or self._transport.is_closing()):
            end = self._buffer.find(b"\n")
            if end < 0:
                if len(self._buffer) > MAX_LINE_BYTES:
                    self._give_up("the line is too long")
                return
            line = bytes(self._buffer[: end + 1])
            del self._buffer[: end + 1]
            self._command(line)

    def _watch_idle(self) -> None:
        left_s = self._last_input + self._server.idle_timeout_s - time.monotonic()
        if left_s > 0:
            self._idle_timer = self._loop.call_later(left_s, self._watch_idle)
        else:
            self.abort()  # RFC 1939 §3: without a word, and nothing is deleted

    def _write(self, text: str, body: bytes | None = None) -> None:
        octets = text.encode() + b"\r\n"
        if body is not None:
            if body and not body.endswith(b"\r\n"):
                body += b"\r\n"
            if body.startswith(b"."):
                body = b"." + body
            octets += body.replace(b"\r\n.", b"\r\n..") + b".\r\n"
        self._transport.write(octets)

    def _ok(self, text: str, body: bytes | None = None) -> None:
        self._write(f"+OK {text}", body)

    def _give_up(self, reason: str) -> None:
        self._write(f"-ERR {reason}")
        self._transport.close()

    # -- commands --------------------------------------------------------------------------------

    def _command(self, line: bytes) -> None:
        try:
            if not line.endswith(b"\r\n") or len(line) > MAX_LINE_BYTES:
                raise Sorry("a line ends in CRLF and is not long")
            try:
                text = line[:-2].decode()
            except UnicodeDecodeError:
                raise Sorry("not UTF-8") from None
            verb, _, argument = text.partition(" ")
            handlers = _AUTHORIZATION if self._drop is None else _TRANSACTION
            handler = handlers.get(verb.upper())
            if handler is None:
                raise Sorry("no such command here")
            handler(self, argument)
        except Sorry as exc:
            self._write(f"-ERR {exc}")

    def _on_capa(self, argument: str) -> None:
        may_shake_hands = self._drop is None and not self._is_tls
        found = (*_CAPABILITIES, "STLS") if may_shake_hands else _CAPABILITIES
        self._ok("what is offered", "".join(f"{one}\r\n" for one in found).encode())

    def _on_stls(self, argument: str) -> None:
        if self._is_tls:
            raise Sorry("TLS is already on")
        self._ok("shake hands")
        self._buffer.clear()  # what came in clear behind it is not believed
        self._user = None
        self._is_upgrading = True
        self._transport.pause_reading()
        self._upgrade = self._loop.create_task(self._shake_hands())

    async def _shake_hands(self) -> None:
        try:
            transport = await self._loop.start_tls(
                self._transport, self, self._server.context, server_side=True
            )
        except (OSError, ssl.SSLError) as exc:
            self._transport.abort()
            self.connection_lost(exc)
            return
        if transport is None or self._is_over:
            self.connection_lost(None)
            return
        self._transport = transport
        self._is_upgrading = False
        self._is_tls = True
        self._pump()

    def _on_user(self, argument: str) -> None:
        self._user = argument
        self._ok("now the password")

    def _on_pass(self, argument: str) -> None:
        user, self._user = self._user, None
        if user is None:
            raise Sorry("say USER first")
        password, drop = self._server.drops.get(user, ("", None))
        if drop is None or not hmac.compare_digest(password.encode(), argument.encode()):
            self._failed_logins += 1
            if self._failed_logins >= MAX_FAILED_LOGINS:
                self._give_up("[AUTH] too many wrong passwords")
                return
            raise Sorry("[AUTH] no such user, or another password")
        if not drop.acquire(self):
            raise Sorry("[IN-USE] another session reads this mailbox")
        self._drop = drop
        self._mails = drop.listing()
        self._ok(f"{len(self._mails)} messages")

    def _on_quit(self, argument: str) -> None:
        if self._drop is not None:
            self._drop.remove(self._mails[number].uid for number in sorted(self._deleted))
            self._leave()
        self._ok("bye")
        self._transport.close()

    def _leave(self) -> None:
        if self._drop is not None:
            self._drop.release(self)
            self._drop = None

    def _on_stat(self, argument: str) -> None:
        left = [mail for _, mail in self._left()]
        self._ok(f"{len(left)} {sum(mail.size_bytes for mail in left)}")

    def _on_list(self, argument: str) -> None:
        self._list(argument, lambda mail: str(mail.size_bytes))

    def _on_uidl(self, argument: str) -> None:
        self._list(argument, lambda mail: mail.uid)

    def _list(self, argument: str, shown: Callable[[Mail], str]) -> None:
        if argument:
            number = self._number(argument)
            self._ok(f"{number + 1} {shown(self._mails[number])}")
            return
        lines = [f"{number + 1} {shown(mail)}\r\n" for number, mail in self._left()]
        self._ok(f"{len(lines)} messages", "".join(lines).encode())

    def _on_retr(self, argument: str) -> None:
        content = self._read(self._number(argument))
        self._ok(f"{len(content)} octets", content)

    def _on_top(self, argument: str) -> None:
        words = argument.split(" ")
        if len(words) != 2 or not (words[1].isascii() and words[1].isdigit()):
            raise Sorry("say TOP, a number, and how many lines")
        head, blank, body = self._read(self._number(words[0])).partition(b"\r\n\r\n")
        lines = body.removesuffix(b"\r\n").split(b"\r\n")[: int(words[1])] if body else []
        self._ok("the top of it", head + blank + b"".join(one + b"\r\n" for one in lines))

    def _on_dele(self, argument: str) -> None:
        self._deleted.add(self._number(argument))
        self._ok("marked")

    def _on_rset(self, argument: str) -> None:
        self._deleted.clear()
        self._ok("nothing is marked")

    def _on_noop(self, argument: str) -> None:
        self._ok("yes")

    # -- help ------------------------------------------------------------------------------------

    def _left(self) -> list[tuple[int, Mail]]:
        return [(n, mail) for n, mail in enumerate(self._mails) if n not in self._deleted]

    def _number(self, text: str) -> int:
        """Return the index a message number stands for."""
        if not (text.isascii() and text.isdigit()) or len(text) > 9:
            raise Sorry("say the number of a message")
        number = int(text) - 1
        if not 0 <= number < len(self._mails) or number in self._deleted:
            raise Sorry("no such message")
        return number

    def _read(self, number: int) -> bytes:
        try:
            return cast(Maildrop, self._drop).read(self._mails[number].uid)
        except KeyError:  # an operator has reset the lab meanwhile
            raise Sorry("the message is gone") from None


_AUTHORIZATION: dict[str, Callable[[PopSession, str], None]] = {
    "CAPA": PopSession._on_capa,
    "STLS": PopSession._on_stls,
    "USER": PopSession._on_user,
    "PASS": PopSession._on_pass,
    "QUIT": PopSession._on_quit,
}
_TRANSACTION: dict[str, Callable[[PopSession, str], None]] = {
    "CAPA": PopSession._on_capa,
    "STAT": PopSession._on_stat,
    "LIST": PopSession._on_list,
    "UIDL": PopSession._on_uidl,
    "TOP": PopSession._on_top,
    "RETR": PopSession._on_retr,
    "DELE": PopSession._on_dele,
    "RSET": PopSession._on_rset,
    "NOOP": PopSession._on_noop,
    "QUIT": PopSession._on_quit,
}
