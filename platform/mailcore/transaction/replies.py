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
_SPACE, _DASH = 0x20, 0x2D


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
            separator = line[3] if len(line) > 3 else _SPACE
            if separator == 0x0D and len(line) == 4:
                separator = _SPACE
            self.fault = self._fault_of(line, code, separator)
            if self.fault or code is None:
                return replies
            text = line[4:].rstrip(b"\r")
            if separator == _DASH:
                self._code = code
                self._lines.append(text)
            elif self._lines:
                replies.append((code, (*self._lines, text)))
                self._lines = []
            else:
                replies.append((code, (text,)))
        if len(self._rest) > MAX_LINE_BYTES:
            self.fault = f"a reply line is longer than {MAX_LINE_BYTES} octets"
        return replies

    def _fault_of(self, line: bytes, code: int | None, separator: int) -> str:
        if code is None or (separator != _SPACE and separator != _DASH):
            return f"no SMTP reply: {text_of(line[:80])!r}"
        if len(line) > MAX_LINE_BYTES:
            return f"a reply line is longer than {MAX_LINE_BYTES} octets"
        if self._lines:
            if code != self._code:
                return f"a reply of two codes, {self._code} and {code}"
            if len(self._lines) >= MAX_REPLY_LINES:
                return f"a reply of more than {MAX_REPLY_LINES} lines"
        return ""
