"""Look at the content of a message as it came over the wire.

Gives    unstuff(), find_end(), defects_of(), lab_id_of(), header_of()
Takes    bytes between the 354 reply and the final dot
Raises   nothing
Follows  RFC 5321 §4.5.2 (transparency), §2.3.8 (lines end in CRLF and nothing else)
"""

import hashlib
import re

from lab.manner import Defect

MAX_LINE_OCTETS = 998
_END = b"\r\n.\r\n"
_LAB_ID = re.compile(rb"^X-Lab-Id:(?:\r\n)?[ \t]*([^\r\n]+)", re.IGNORECASE | re.MULTILINE)
_MESSAGE_ID = re.compile(rb"^Message-ID:(?:\r\n)?[ \t]*([^\r\n]+)", re.IGNORECASE | re.MULTILINE)


def find_end(
    buffer: bytes | bytearray, begin: int, searched: int, *, is_start: bool = True
) -> tuple[int, int] | None:
    """Return where content ends and where what follows the final dot begins, or None.

    Only CRLF.CRLF ends content: a receiver that takes LF.LF as well can be made to see two
    messages where the sender sent one. Content begins at `begin` and was searched up to `searched`
    before; `is_start` says that its first octet is still there (a lone dot may end it at once).
    """
    if is_start and buffer.startswith(b".\r\n", begin):
        return begin, begin + 3
    at = buffer.find(_END, max(begin, searched - len(_END) + 1))
    return None if at < 0 else (at + 2, at + len(_END))


def unstuff(content: bytes) -> bytes:
    """Take back the transparency of the dot."""
    if content.startswith(b"."):
        content = content[1:]
    return content.replace(b"\r\n.", b"\r\n") if b"\r\n." in content else content


def header_of(content: bytes) -> bytes:
    """Return the header section, final CRLF included."""
    end = content.find(b"\r\n\r\n")
    return content if end < 0 else content[: end + 2]


def lab_id_of(header: bytes, sha256: str) -> str:
    """Return what names the message: X-Lab-Id, else Message-ID, else the digest of its content."""
    match = _LAB_ID.search(header) or _MESSAGE_ID.search(header)
    if match is not None and (found := match[1].strip().decode("utf-8", "replace")):
        return found
    return f"sha256:{sha256}"


def defects_of(content: bytes, header: bytes, *, is_eight_bit: bool, is_utf8: bool) -> set[Defect]:
    """Name the faults of a content."""
    found: set[Defect] = set()
    lines = content.split(b"\r\n")
    # splitlines() ends a line at CR, LF and CRLF alike: more lines mean that one stood alone.
    if len(content.splitlines()) != len(lines) - (not lines[-1]):
        found.add(Defect.BARE_NEWLINE)
    if max(map(len, lines)) > MAX_LINE_OCTETS:
        found.add(Defect.LONG_LINE)
    if b"\0" in content:
        found.add(Defect.NUL_OCTET)
    if not content.isascii():
        # SMTPUTF8 does not imply 8BITMIME: RFC 6531 §3.6 asks for the parameter all the same.
        if not is_eight_bit:
            found.add(Defect.UNDECLARED_8BIT)
        if not is_utf8 and not header.isascii():
            found.add(Defect.UNDECLARED_UTF8)
    return found


def digest_of(content: bytes) -> str:
    """Return the SHA-256 of the content in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
