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
    """What came and was not read yet. What was read stays in place until more comes: cutting it
    off line by line would copy the rest each time."""

    __slots__ = ("_at", "_is_skipping", "_octets")

    def __init__(self) -> None:
        self._octets = b""
        self._at = 0
        self._is_skipping = False

    def __len__(self) -> int:
        return len(self._octets) - self._at

    def add(self, octets: bytes) -> None:
        """Append what came."""
        self._octets = self._octets[self._at :] + octets if len(self) else octets
        self._at = 0

    def take(self, most: int | None = None) -> bytes:
        """Take out octets that are no lines; all by default."""
        end = None if most is None else self._at + most
        taken = self._octets[self._at : end]
        self._at += len(taken)
        return taken

    def clear(self) -> None:
        """Forget what came."""
        self._octets = b""
        self._at = 0
        self._is_skipping = False

    def begins_with(self, word: bytes) -> bool:
        """Whether the next line begins so, in any case."""
        return self._octets[self._at : self._at + len(word)].upper() == word

    def next_line(self, limit: int) -> str | None:
        """Return the next line without its end, None if it is not whole. `limit` counts CRLF."""
        octets, start = self._octets, self._at
        end = octets.find(b"\n", start)
        if end < 0:
            self._look_at_half_a_line(limit)
            return None
        line = octets[start : end - 1]
        if end == start or octets[end - 1] != 13 or b"\r" in line or b"\0" in line:
            raise LineMisread
        self._at = end + 1
        was_skipping, self._is_skipping = self._is_skipping, False
        if was_skipping or end + 1 - start > limit:
            raise LineTooLong
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as exc:
            raise LineNotText from exc

    def _look_at_half_a_line(self, limit: int) -> None:
        half = self._octets[self._at :]
        lone = half.find(b"\r")
        if b"\0" in half or 0 <= lone < len(half) - 1:
            raise LineMisread
        if len(half) > limit:
            self._is_skipping = True
            self._octets, self._at = (b"\r" if half.endswith(b"\r") else b""), 0
