"""Command lines, cut from what came in.

Gives    Lines
Raises   LineTooLong, LineNotText: the line is gone, the next one may be read; LineMisread: a CR, LF
         or NUL stands where servers differ about its meaning
Follows  RFC 5321 §2.3.8 (lines end in CRLF, nothing else), §4.5.3.1.4 (length)
"""

from __future__ import annotations


class LineTooLong(Exception):
    """A line beyond its limit; it was dropped while it came."""


class LineNotText(Exception):
    """A line that is no UTF-8."""


class LineMisread(Exception):
    """Octets that other servers may take for another line."""


class Lines:
    """What came and was not read yet."""

    __slots__ = ("_is_skipping", "pending")

    def __init__(self) -> None:
        self.pending = b""
        self._is_skipping = False

    def add(self, octets: bytes) -> None:
        """Append what came."""
        self.pending = self.pending + octets if self.pending else octets

    def take(self, most: int | None = None) -> bytes:
        """Take out octets that are no lines; all by default."""
        taken = self.pending[:most]
        self.pending = self.pending[len(taken) :]
        return taken

    def clear(self) -> None:
        """Forget what came."""
        self.pending = b""
        self._is_skipping = False

    def begins_with(self, word: bytes) -> bool:
        """Whether the next line begins so, in any case."""
        return self.pending[: len(word)].upper() == word

    def next_line(self, limit: int) -> str | None:
        """Return the next line without its end, None if it is not whole. `limit` counts CRLF."""
        pending = self.pending
        end = pending.find(b"\n")
        if end < 0:
            lone = pending.find(b"\r")
            if b"\0" in pending or 0 <= lone < len(pending) - 1:
                raise LineMisread
            if len(pending) > limit:
                self._is_skipping = True
                self.pending = pending[-1:] if pending.endswith(b"\r") else b""
            return None
        line = pending[: end - 1]
        if not end or pending[end - 1] != 13 or b"\r" in line or b"\0" in line:
            raise LineMisread
        self.pending = pending[end + 1 :]
        was_skipping, self._is_skipping = self._is_skipping, False
        if was_skipping or end + 1 > limit:
            raise LineTooLong
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as exc:
            raise LineNotText from exc
