"""A mail server as RFC 5321 and RFC 3030 describe one, without a socket: octets in, octets out.

Gives    Plan (what a message meets), ModelServer
It judges by name, so that the order in which it is asked changes nothing: message 3's second
recipient is m3r1@peer.test.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_ENHANCED = {"mail": "1.0", "rcpt": "1.5", "data": "5.0", "end": "6.0"}


@dataclass(frozen=True)
class Plan:
    """What the server says to one message."""

    mail: int
    rcpts: tuple[int, ...]
    data: int
    end: int
    content: bytes

    def expected(self, *, is_chunked: bool) -> list[int]:
        """Return the code each recipient must get, by the RFCs alone."""
        if self.mail != 250:
            return [self.mail] * len(self.rcpts)
        decided = self.end if is_chunked or self.data == 354 else self.data
        return [decided if code == 250 else 452 if code == 552 else code for code in self.rcpts]


@dataclass
class ModelServer:
    """One session; `taken` is what it answers for, `wrong` what no client may do."""

    plans: list[Plan]
    offers: tuple[str, ...]
    # RFC 3030 leaves it open: after a refused chunk this one waits for RSET.
    nests: bool = False
    # It says 354 although it accepted nobody, as RFC 2920 warns.
    is_generous: bool = False
    taken: list[tuple[int, tuple[int, ...], bytes]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    said: list[bytes] = field(default_factory=lambda: [b"220 peer.test\r\n"])
    _rest: bytes = b""
    _message: int = -1
    _recipients: list[int] = field(default_factory=list)
    _wants: int = -1
    _is_data: bool = False

    def hear(self, data: bytes) -> None:
        """Take octets of the client."""
        self._rest += data
        while self._step():
            pass

    def _step(self) -> bool:
        if self._wants >= 0:
            return self._take_chunk()
        if self._is_data:
            return self._take_data()
        line, end, rest = self._rest.partition(b"\r\n")
        if not end:
            return False
        self._rest = rest
        self._command(line.decode())
        return True

    def _command(self, line: str) -> None:
        verb, _, rest = line.partition(" ")
        found = re.match(r"(?:FROM|TO):<m(\d+)(?:r(\d+))?@", rest)
        if verb == "EHLO":
            lines = ["peer.test", *self.offers]
            self.said.append("".join(f"250-{each}\r\n" for each in lines[:-1]).encode())
            self.said[-1] += f"250 {lines[-1]}\r\n".encode()
        elif verb == "MAIL" and found and self._message < 0:
            code = self.plans[int(found[1])].mail
            self._message = int(found[1]) if code == 250 else -1
            self._say(code, "mail")
        elif verb == "RCPT" and found and self._message >= 0:
            code = self.plans[int(found[1])].rcpts[int(found[2])]
            if code == 250:
                self._recipients.append(int(found[2]))
            self._say(code, "rcpt")
        elif verb == "DATA" and self._message >= 0 and (self._recipients or self.is_generous):
            code = self.plans[self._message].data
            self._is_data = code == 354
            self._say(code, "data")
        elif verb == "BDAT" and rest.endswith(" LAST") and rest[:-5].isdecimal():
            self._wants = int(rest[:-5])
            if not self._recipients:
                self.wrong.append("a chunk for nobody")
        elif verb == "RSET":
            self._reset()
            self.said.append(b"250 2.0.0 reset\r\n")
        elif verb in ("MAIL", "RCPT", "DATA"):
            self.said.append(b"503 5.5.1 not now\r\n")
        else:
            self.wrong.append(f"no command: {line!r}")
            self.said.append(b"500 5.5.2 what\r\n")

    def _take_chunk(self) -> bool:
        if len(self._rest) < self._wants:
            return False
        content, self._rest = self._rest[: self._wants], self._rest[self._wants :]
        self._wants = -1
        self._end(content, is_chunk=True)
        return True

    def _take_data(self) -> bool:
        whole = b"\r\n" + self._rest
        content, end, rest = whole.partition(b"\r\n.\r\n")
        if not end:
            return False
        self._rest, self._is_data = rest, False
        self._end((content + b"\r\n").replace(b"\r\n.", b"\r\n")[2:], is_chunk=False)
        return True

    def _end(self, content: bytes, *, is_chunk: bool) -> None:
        code = self.plans[self._message].end if self._recipients else 554
        if code == 250:
            self.taken.append((self._message, tuple(self._recipients), content))
        if not self._recipients and content:
            self.wrong.append("content for nobody")
        if not (is_chunk and self.nests and code != 250):
            self._reset()
        self._say(code, "end")

    def _reset(self) -> None:
        self._message = -1
        self._recipients = []

    def _say(self, code: int, step: str) -> None:
        if code == 354:
            self.said.append(b"354 go\r\n")
        else:
            self.said.append(f"{code} {code // 100}.{_ENHANCED[step]} {step}\r\n".encode())
