"""Speak POP3: one session on a blocking socket, with a deadline on every read.

Gives    Pop3Session: capabilities, stls, login, listing, fetch, delete, commit, abort
Takes    a connected socket; the time one answer may take
Raises   MailboxError, in the server's own words where it had some
Follows  RFC 1939 (POP3), RFC 2449 (CAPA, PIPELINING, response codes), RFC 2595 (STLS)

Not poplib: that one gives up on a line over 2048 octets, which returned mail has, and holds a whole
answer at once. Here an answer is read as it comes and no line or message is held beyond its limit.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

from mailcore.ports import MailboxError, MailboxItem

CHUNK = 64 * 1024
MAX_LINE = 8192
MAX_ANSWER = 512
MAX_UIDL = 200
# What is read of one message and thrown away, before the line is worth more than its session.
MAX_DISCARDED = 64 * 1024 * 1024
PIPELINED = 100
_BYTES_A_LINE = 64
# What OpenSSL makes of an answer in clear.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"})
_FORBIDDEN = ("\r", "\n", "\0")


class Pop3Session:
    """One session. Not thread-safe. After an error only `abort` is of use."""

    def __init__(self, line: socket.socket, *, host: str, answer_s: float) -> None:
        self._line = line
        self._host = host
        self._answer_s = answer_s
        self._buffer = bytearray()
        self._deadline = 0.0
        self._capabilities: frozenset[str] = frozenset()
        self._is_over = False

    def greet(self) -> None:
        """Read the server's greeting and what it can do."""
        self._answer("the greeting")
        self._ask_capabilities()

    def stls(self, context: ssl.SSLContext) -> None:
        """Turn to TLS; what was said before in clear is forgotten (RFC 2595 §4)."""
        if "STLS" not in self._capabilities:
            raise MailboxError(f"{self._host} offers no STLS")
        self._ask("STLS", "STLS")
        if self._buffer:
            raise MailboxError(f"{self._host} spoke in clear after STLS")
        self._line = wrapped(self._line, context, self._host)
        self._ask_capabilities()

    def login(self, user: str, password: bytes) -> None:
        """Open the mailbox."""
        secret = password.decode("utf-8", "surrogateescape")
        if any(each in user + secret for each in _FORBIDDEN):
            raise MailboxError("the login or password has a line end or a NUL in it")
        self._ask(f"USER {user}", "the login")
        self._send(b"PASS " + password + b"\r\n")
        self._answer("the login")
        self._ask_capabilities()

    def listing(self) -> Iterator[MailboxItem]:
        """Yield what is in it; the answer is read as it is asked for, and must be read whole."""
        self._ask("UIDL", "UIDL")
        while (line := self._read_line()) != b".":
            number, _, uidl = line.partition(b" ")
            name = uidl.strip().decode("latin-1")
            is_good = 0 < len(name) <= MAX_UIDL and name.isascii() and name.isprintable()
            if not (number.isdigit() and is_good):
                raise MailboxError(f"{self._host} lists a message with a UIDL that is none")
            yield MailboxItem(int(number), name)
            self._extend()

    def fetch(self, numbers: Sequence[int], *, most_bytes: int) -> Iterator[bytes | None]:
        """Yield these messages in order, of a larger one its beginning; None for what the server
        will not give. Read it to its end. Several are asked for at a time where the server
        takes that: one message a round trip is ten a second from far away."""
        step = PIPELINED if "PIPELINING" in self._capabilities else 1
        for start in range(0, len(numbers), step):
            sizes = self._sizes(numbers[start : start + step])
            self._send(b"".join(self._wanted(*each, most_bytes) for each in sizes))
            for _ in sizes:
                yield self._read_message(most_bytes) if self._is_given() else None

    def _sizes(self, numbers: Sequence[int]) -> list[tuple[int, int]]:
        self._send(b"".join(b"LIST %d\r\n" % number for number in numbers))
        found: list[tuple[int, int]] = []
        for number in numbers:
            words = self._read_line().split()
            is_given = len(words) > 2 and words[0] == b"+OK" and words[2].isdigit()
            found.append((number, int(words[2]) if is_given else 0))
        return found

    def _wanted(self, number: int, size: int, most_bytes: int) -> bytes:
        if size > most_bytes and "TOP" in self._capabilities:
            return b"TOP %d %d\r\n" % (number, most_bytes // _BYTES_A_LINE)
        return b"RETR %d\r\n" % number

    def delete(self, numbers: Sequence[int]) -> None:
        """Mark messages as deleted, several at a time where the server takes that."""
        step = PIPELINED if "PIPELINING" in self._capabilities else 1
        for start in range(0, len(numbers), step):
            some = numbers[start : start + step]
            self._send(b"".join(b"DELE %d\r\n" % number for number in some))
            for _ in some:
                self._answer("DELE")

    def commit(self) -> None:
        """End the session; returns when the server said that the marked messages are gone."""
        self._ask("QUIT", "QUIT")
        self.abort()

    def abort(self) -> None:
        """Drop the line: nothing is deleted (RFC 1939 §6)."""
        if not self._is_over:
            self._is_over = True
            with suppress(OSError):
                self._line.close()

    # --- the line ---------------------------------------------------------------------------------

    def _ask(self, command: str, what: str) -> None:
        self._send(command.encode("utf-8") + b"\r\n")
        self._answer(what)

    def _ask_capabilities(self) -> None:
        self._send(b"CAPA\r\n")
        if not self._is_given():
            # A server older than CAPA: it may still know TOP, but nobody said so.
            self._capabilities = frozenset()
            return
        found: list[str] = []
        while (line := self._read_line()) != b"." and len(found) < 100:
            found.append(line.split(b" ")[0].decode("latin-1").upper())
        self._capabilities = frozenset(found)

    def _extend(self) -> None:
        """Something came: the next may take as long again."""
        self._deadline = time.monotonic() + self._answer_s

    def _send(self, octets: bytes) -> None:
        self._extend()
        try:
            self._line.settimeout(self._answer_s)
            self._line.sendall(octets)
        except OSError as exc:
            raise MailboxError(f"{self._host}: {_reason(exc)}") from exc

    def _is_given(self) -> bool:
        """Read a status line; whether it is positive."""
        self._extend()
        return self._read_line().startswith(b"+OK")

    def _answer(self, what: str) -> None:
        """Read a status line that must be positive."""
        self._extend()
        line = self._read_line()
        if line.startswith(b"+OK"):
            return
        said = line[:MAX_ANSWER].decode("utf-8", "replace").strip()
        raise MailboxError(f"{self._host} refused {what}: {said or 'an empty answer'}")

    def _read_line(self) -> bytes:
        """Return a line without its end; of a longer one its beginning."""
        at = self._buffer.find(b"\n")
        while at < 0:
            if len(self._buffer) > MAX_LINE:
                raise MailboxError(f"{self._host} sent a line that does not end")
            searched = len(self._buffer)
            self._receive()
            at = self._buffer.find(b"\n", searched)
        line = bytes(self._buffer[:at]).rstrip(b"\r")
        del self._buffer[: at + 1]
        return line

    def _read_message(self, most_bytes: int) -> bytes:
        """Read to the line with a dot alone; keep the first `most_bytes`, dots unstuffed."""
        # The status line's end stands before the first line, which may be the dot already.
        kept, tail, total = bytearray(b"\r\n"), b"\r\n", 0
        while True:
            fresh = bytes(self._buffer)
            self._buffer.clear()
            at = (tail + fresh).find(b"\r\n.\r\n") - len(tail)
            if at >= -len(tail):
                kept += fresh[: max(at + 2, 0)]
                if at + 2 < 0:
                    del kept[at + 2 :]
                self._buffer += fresh[at + 5 :]
                return bytes(kept).replace(b"\r\n..", b"\r\n.")[2 : most_bytes + 2]
            kept += fresh[: max(0, most_bytes + CHUNK - len(kept))]
            total += len(fresh)
            if total > MAX_DISCARDED:
                raise MailboxError(f"{self._host} sent a message that does not end")
            tail = (tail + fresh)[-4:]
            self._extend()
            self._receive()

    def _receive(self) -> None:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise MailboxError(f"{self._host}: no answer in {self._answer_s:g} s")
        try:
            self._line.settimeout(left_s)
            data = self._line.recv(CHUNK)
        except TimeoutError as exc:
            raise MailboxError(f"{self._host}: no answer in {self._answer_s:g} s") from exc
        except OSError as exc:
            raise MailboxError(f"{self._host}: {_reason(exc)}") from exc
        if not data:
            raise MailboxError(f"{self._host} closed the connection")
        self._buffer += data


def wrapped(line: socket.socket, context: ssl.SSLContext, host: str) -> ssl.SSLSocket:
    """Return a line under TLS, with the server's name checked as the context says."""
    try:
        return context.wrap_socket(line, server_hostname=host)
    except (OSError, ValueError) as exc:
        line.close()
        raise MailboxError(f"{host}: TLS: {_reason(exc)}") from exc


def _reason(exc: Exception) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"the certificate is not good: {exc.verify_message}"
    if isinstance(exc, ssl.SSLError):
        if exc.reason in _NO_TLS:
            return "the server does not speak TLS at this port"
        return (exc.reason or str(exc)).replace("_", " ").lower()
    return getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
