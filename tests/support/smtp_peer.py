"""An SMTP server that answers from a script: polite, slow, rude or lying, on loopback.

Gives    serving (a context with the port and what was heard), Peer (what a script speaks with),
         obedient (a server that takes what the given answers let it take)
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

PIPELINING = ("PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 104857600")
PLAIN = ("8BITMIME",)


class Gone(Exception):
    """The client closed the connection."""


@dataclass
class Heard:
    """What all sessions of a server heard."""

    port: int = 0
    sessions: int = 0
    lines: list[str] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)
    groups: list[list[str]] = field(default_factory=list)
    tls: list[str] = field(default_factory=list)


class Peer:
    """The server's end of one session."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: Heard
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.heard = heard

    def say(self, *lines: str) -> None:
        """Send reply lines in one write."""
        self.writer.write("".join(f"{line}\r\n" for line in lines).encode())

    async def drip(self, text: str, *, pause_s: float) -> None:
        """Send byte after byte."""
        for byte in text.encode():
            self.writer.write(bytes([byte]))
            await asyncio.sleep(pause_s)

    async def hear(self) -> str:
        """Return the next command line."""
        line = await self.reader.readline()
        if not line.endswith(b"\r\n"):
            raise Gone
        self.heard.lines.append(line[:-2].decode())
        return line[:-2].decode()

    async def hear_verb(self, verb: str) -> str:
        """Return the next line, which must begin with `verb`."""
        line = await self.hear()
        assert line.upper().startswith(verb), f"{line!r} came, not {verb}"
        return line

    async def hear_group(self) -> list[str]:
        """Return the commands that came in one write."""
        data = await self.reader.read(65536)
        if not data:
            raise Gone
        group = data.decode().split("\r\n")[:-1]
        self.heard.groups.append(group)
        self.heard.lines.extend(group)
        return group

    async def take_content(self) -> bytes:
        """Return content up to its dot, with doubled dots undone."""
        lines: list[bytes] = []
        while True:
            line = await self.reader.readline()
            if not line.endswith(b"\n"):
                raise Gone
            if line == b".\r\n" and (not lines or lines[-1].endswith(b"\r\n")):
                break
            is_start = not lines or lines[-1].endswith(b"\r\n")
            lines.append(line[1:] if is_start and line.startswith(b".") else line)
        content = b"".join(lines)
        self.heard.contents.append(content)
        return content

    async def greet(self, extensions: Sequence[str] = PIPELINING) -> None:
        """220, then the answer to EHLO."""
        self.say("220 peer.test ESMTP")
        await self.hear_verb("EHLO")
        lines = ["peer.test", *extensions]
        self.say(*(f"250-{line}" for line in lines[:-1]), f"250 {lines[-1]}")

    async def stall(self) -> None:
        """Say nothing more until the client leaves."""
        while await self.reader.read(65536):
            pass

    def drop(self) -> None:
        """Close with a reset."""
        self.writer.transport.abort()

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Go on under TLS."""
        await self.writer.start_tls(context)
        tls = self.writer.get_extra_info("ssl_object")
        self.heard.tls.append(tls.version())


Script = Callable[[Peer], Awaitable[None]]


def obedient(
    answers: Mapping[str, Sequence[str]] | None = None,
    extensions: Sequence[str] = PIPELINING,
) -> Script:
    """Return a script: each verb takes the next of its answers, then says yes.

    A transaction is judged as a server would: DATA without a recipient is refused.
    """
    queues = {verb: list(lines) for verb, lines in (answers or {}).items()}

    def answer(verb: str, default: str) -> str:
        queue = queues.get(verb)
        return queue.pop(0) if queue else default

    async def script(peer: Peer) -> None:
        await peer.greet(extensions)
        has_sender, recipients = False, 0
        while True:
            line = await peer.hear()
            verb = line.split(" ")[0].split(":")[0].upper()
            reply = {"MAIL": "250 2.1.0 ok", "RCPT": "250 2.1.5 ok", "DATA": "354 go"}.get(verb)
            if verb == "MAIL" and has_sender:
                reply = "503 5.5.1 nested MAIL"
            elif verb == "RCPT" and not has_sender:
                reply = "503 5.5.1 no MAIL"
            elif verb == "DATA" and not recipients:
                reply = "554 5.5.1 no valid recipients"
            reply = answer(verb, reply or "250 2.0.0 ok")
            if verb == "RSET":
                has_sender, recipients = False, 0
            elif reply.startswith("2"):
                has_sender = has_sender or verb == "MAIL"
                recipients += verb == "RCPT"
            peer.say(reply)
            if reply.startswith("421") or verb == "QUIT":
                return
            if reply.startswith("354"):
                await peer.take_content()
                has_sender, recipients = False, 0
                peer.say(answer("DOT", "250 2.0.0 queued"))

    return script


@contextlib.asynccontextmanager
async def serving(script: Script) -> AsyncIterator[Heard]:
    """Serve the script to every session on a free port of 127.0.0.1."""
    heard = Heard()
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.sessions += 1
        try:
            await script(Peer(reader, writer, heard))
        except (Gone, ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(run(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    heard.port = server.sockets[0].getsockname()[1]
    try:
        yield heard
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
