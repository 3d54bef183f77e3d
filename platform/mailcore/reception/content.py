"""Content on its way in: where it ends, what it may not hold, how much of it is kept.

Gives    Content: DATA up to CRLF.CRLF (`feed`), chunks of BDAT (`add`), then `finish`
         find_fault: the first octet that no line of a message may hold
Raises   nothing
Follows  RFC 5321 §4.1.1.4, §4.5.2 (end of data, dots) and §2.3.8 (CR and LF only as CRLF)

End of data is CRLF.CRLF and nothing else. A CR or LF alone, or a NUL, never ends anything and is
never passed on: servers differ about them, and a message that reads as one here and as two there
is how mail is smuggled.
"""

from __future__ import annotations

import re

from mailcore.reception.values import Gauge

_END = b"\r\n.\r\n"
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)|\x00")
_NAMES = {b"\n": "LF", b"\r": "CR", b"\0": "NUL"}


def find_fault(octets: bytes) -> str:
    """Return what is wrong with these octets, "" for sound ones."""
    # Splitting and joining costs 10 µs for 10 KB; a pattern with a look-behind 160.
    rest = b"".join(octets.split(b"\r\n"))
    if not (b"\n" in rest or b"\r" in rest or b"\0" in rest):
        return ""
    match = _BARE.search(octets)
    return _NAMES[match[0]] if match is not None else ""


class Content:
    """The octets of one message. `length` counts all that came, kept or not."""

    __slots__ = (
        "_account_id", "_carry", "_gauge", "_held", "_kept", "_limit", "fault", "is_short",
        "length",
    )  # fmt: skip

    def __init__(self, limit: int, gauge: Gauge, account_id: int) -> None:
        # A line that holds one dot alone is four octets on the wire and three in the message.
        self._limit = limit + limit // 3 + 16
        self._gauge = gauge
        self._account_id = account_id
        self._kept = bytearray()
        self._held = 0
        self._carry = b"\r\n"  # the dot may be the very first line
        self.length = 0
        self.fault = ""
        self.is_short = False

    @property
    def is_too_large(self) -> bool:
        """Whether more came than is ever kept."""
        return self.length > self._limit

    def feed(self, octets: bytes) -> int:
        """Take octets behind DATA; return how many of them belong to it, -1 for all and more to
        come. `fault` is set as soon as one is found: nothing behind it is to be read."""
        text = self._carry + octets
        end = text.find(_END)
        if end >= 0:
            self._keep(text[: end + 2])
            self.fault = find_fault(text[: end + 2])
            return end + len(_END) - len(self._carry)
        self.fault = find_fault(text[:-1] if text.endswith(b"\r") else text)
        cut = max(0, len(text) - len(_END) + 1)
        if cut and text[cut - 1] == 13:
            cut -= 1  # so that what is left never begins with the LF of a CRLF
        self._keep(text[:cut])
        self._carry = text[cut:]
        return -1

    def add(self, octets: bytes) -> None:
        """Take octets of a chunk."""
        self._keep(octets)

    def finish_data(self) -> bytes:
        """Return the message behind DATA, dots unstuffed."""
        content = self._taken_out()
        if b"\r\n." in content:
            content = content.replace(b"\r\n.", b"\r\n")
        return content[2:]

    def finish_chunks(self) -> bytes:
        """Return the message of the chunks; `fault` tells whether it may be taken."""
        content = self._taken_out()
        self.fault = find_fault(content)
        return content

    def _taken_out(self) -> bytes:
        """Return what was kept. It counts as held until `release`."""
        content, self._kept = bytes(self._kept), bytearray()
        return content

    def release(self) -> None:
        """Give the memory back; what still comes is not kept."""
        self._gauge.give_back(self._held, self._account_id)
        self._held = 0
        self._kept = bytearray()

    def _keep(self, octets: bytes) -> None:
        count = len(octets)
        self.length += count
        if self.is_short:
            return
        if self.length > self._limit or not self._gauge.take(count, self._account_id):
            self.is_short = True
            self.release()
            return
        self._held += count
        self._kept += octets
