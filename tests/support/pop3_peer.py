"""A small POP3 server on loopback that follows a script: for what a good server never does.

Gives    Pop3Peer: messages, capabilities and faults to set; commands it heard; deletions it kept
Takes    a dictionary of UIDL to message
"""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field

GREETING = b"+OK ready\r\n"


@dataclass
class Pop3Peer:
    """One mailbox. `answers` replaces what is said to a command; None closes the line."""

    messages: dict[str, bytes] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ("TOP", "UIDL", "USER", "PIPELINING")
    password: str = "secret"
    greeting: bytes = GREETING
    answers: dict[str, bytes | None] = field(default_factory=dict)
    heard: list[str] = field(default_factory=list)
    sessions: int = 0
    chunk: int = 1 << 16

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._run, daemon=True)]
        self._threads[0].start()

    def stop(self) -> None:
        """Close the door; sessions end with their clients."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(timeout=5)

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                line, _ = self._listener.accept()
                self.sessions += 1
                thread = threading.Thread(target=self._serve, args=(line,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, line: socket.socket) -> None:
        deleted: set[str] = set()
        listed = list(self.messages)
        with line, line.makefile("rb") as stream, contextlib.suppress(OSError):
            line.sendall(self.greeting)
            for raw in stream:
                command = raw.decode("utf-8", "replace").strip()
                self.heard.append(command)
                word = command.split(" ")[0].upper()
                if command in self.answers or word in self.answers:
                    answer = self.answers.get(command, self.answers.get(word))
                else:
                    answer = self._answer(command, listed, deleted)
                if answer is None:
                    return
                if word == "QUIT" and answer.startswith(b"+OK"):
                    for uidl in deleted:
                        self.messages.pop(uidl, None)
                for at in range(0, len(answer), self.chunk):
                    line.sendall(answer[at : at + self.chunk])
                if word == "QUIT":
                    return

    def _answer(self, command: str, listed: list[str], deleted: set[str]) -> bytes:
        word, *arguments = command.split(" ")
        word = word.upper()
        if word == "CAPA":
            return b"+OK\r\n" + "".join(f"{c}\r\n" for c in self.capabilities).encode() + b".\r\n"
        if word == "PASS":
            good = arguments == [self.password]
            return b"+OK\r\n" if good else b"-ERR [AUTH] wrong login or password\r\n"
        if word == "UIDL":
            lines = "".join(f"{n} {uidl}\r\n" for n, uidl in enumerate(listed, 1))
            return b"+OK\r\n" + lines.encode() + b".\r\n"
        if word in ("LIST", "RETR", "TOP", "DELE"):
            uidl = listed[int(arguments[0]) - 1]
            if uidl not in self.messages or uidl in deleted:
                return b"-ERR no such message\r\n"
            if word == "DELE":
                deleted.add(uidl)
                return b"+OK\r\n"
            content = self.messages[uidl]
            if word == "LIST":
                return f"+OK {arguments[0]} {len(content)}\r\n".encode()
            if word == "TOP":
                head, _, body = content.partition(b"\r\n\r\n")
                lines_kept = body.split(b"\r\n")[: int(arguments[1])]
                content = head + b"\r\n\r\n" + b"\r\n".join(lines_kept) + b"\r\n"
            return b"+OK\r\n" + stuffed(content) + b".\r\n"
        return b"+OK\r\n" if word in ("USER", "QUIT", "NOOP") else b"-ERR what?\r\n"


def stuffed(content: bytes) -> bytes:
    """Return a message as it travels: with CRLF at its end and its dots doubled."""
    content = content if content.endswith(b"\r\n") or not content else content + b"\r\n"
    return (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:]
