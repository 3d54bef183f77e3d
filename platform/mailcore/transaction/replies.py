"""A server's bytes, cut into replies.

Gives    ReplyReader (bounded, never raises), reply_of (raw lines to SmtpReply), text_of
Takes    bytes as they come
Raises   nothing: `ReplyReader.fault` says what was wrong, and nothing is read after that
Follows  RFC 5321 §4.2 (replies), §4.5.3.1.5 (512 octets a line; more is taken, with a bound)
"""

from __future__ import annotations

from mailcore.reply import SmtpReply

MAX_LINE_BYTES = 4096
MAX_REPLY_LINES = 128
_CODES = {b"%d" % code: code for code in range(200, 600)}


def text_of(line: bytes) -> str:
    """Return reply text that is safe to store and show: UTF-8, else marks; no control codes."""
    text = line.decode("utf-8", "replace")
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " if c == "\t" else "\ufffd" for c in text)
    return text


def reply_of(code: int, lines: tuple[bytes, ...]) -> SmtpReply:
    return SmtpReply.of(code, tuple(text_of(line) for line in lines))


class ReplyReader:
    """Cuts a server's bytes into replies: a code and the raw text of each line.

    `fault` says what was wrong once something was; nothing is read after that.
    """

    __slots__ = ("_code", "_lines", "_rest", "fault")

    def __init__(self) -> None:
        self._rest = b""
        self._code = 0
        self._lines: list[bytes] = []
        self.fault = ""

    def feed(self, data: bytes) -> list[tuple[int, tuple[bytes, ...]]]:
        """Return the replies that `data` completes."""
        replies: list[tuple[int, tuple[bytes, ...]]] = []
        if self.fault:
            return replies
        lines = (self._rest + data if self._rest else data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            code = _CODES.get(line[:3])
            is_plain = code is not None and line[3:4] == b" " and len(line) <= MAX_LINE_BYTES
            if is_plain and code is not None and not self._lines:
                replies.append((code, (line[4:].rstrip(b"\r"),)))
            elif not self._take(line, code, replies):
                return replies
        if len(self._rest) > MAX_LINE_BYTES:
            self.fault = f"a reply line is longer than {MAX_LINE_BYTES} octets"
        return replies

    def _take(
        self, line: bytes, code: int | None, replies: list[tuple[int, tuple[bytes, ...]]]
    ) -> bool:
        """Take any line; False once there is a fault."""
        separator = line[3:4].replace(b"\r", b"")
        if code is None or separator not in (b"", b" ", b"-"):
            self.fault = f"no SMTP reply: {text_of(line[:80])!r}"
        elif len(line) > MAX_LINE_BYTES:
            self.fault = f"a reply line is longer than {MAX_LINE_BYTES} octets"
        elif self._lines and code != self._code:
            self.fault = f"a reply of two codes, {self._code} and {code}"
        elif len(self._lines) >= MAX_REPLY_LINES:
            self.fault = f"a reply of more than {MAX_REPLY_LINES} lines"
        else:
            self._code = code
            self._lines.append(line[4:].rstrip(b"\r"))
            if separator != b"-":
                replies.append((code, tuple(self._lines)))
                self._lines.clear()
            return True
        return False
