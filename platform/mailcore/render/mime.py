"""What a part of a message is, where its container begins and ends it, and what encodes it.

Gives    Kind, kind_of; SEALED; encoding_of, encoded_as, IDENTITY, QP_FAULT; base64_anew;
         is_base64; delimiters, holds_boundary; MAX_DEPTH, CRLF
Raises   nothing: a Content-Type that cannot be read is None
Follows  RFC 2045 §5-6, RFC 2046 §5.1 (boundaries)
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email import message_from_bytes

from mailcore.render.content import PARSER_FAULTS, Field

MAX_DEPTH = 20
_ENCODING = "content-transfer-encoding"
IDENTITY = frozenset({b"7bit", b"8bit", b"binary"})
QP_FAULT = re.compile(rb"=(?!\r\n|[0-9A-Fa-f]{2}|\Z)")
SEALED = frozenset({"multipart/signed", "multipart/encrypted"})
CRLF = b"\r\n"
_DELIMITER_END = re.compile(rb"(--)?[ \t]*(?=\r\n|\Z)")
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/=]+")


@dataclass(frozen=True, slots=True)
class Kind:
    """What a part is. The boundary is empty where there is none."""

    content_type: str
    boundary: bytes
    is_attachment: bool

    @property
    def maintype(self) -> str:
        """What stands before the slash."""
        return self.content_type.partition("/")[0]


def kind_of(fields: Sequence[Field]) -> Kind | None:
    """Return what its fields say that a part is, None for what nobody can read."""
    wanted = ("content-type", "content-disposition")
    head = CRLF.join(field.raw for field in fields if field.key in wanted)
    try:
        message = message_from_bytes(head + b"\r\n\r\n")
        boundary = str(message.get_boundary() or "").encode("utf-8", "surrogateescape")
        is_attachment = message.get_content_disposition() == "attachment"
        return Kind(message.get_content_type(), boundary, is_attachment)
    except PARSER_FAULTS:
        return None


def encoding_of(fields: Sequence[Field]) -> bytes:
    """Return what a part says of its encoding, in lower case; a part that is silent is 7bit."""
    said = [field.value.lower() for field in fields if field.key == _ENCODING]
    if len(said) > 1:
        return b"?"
    return said[0] if said else b"7bit"


def encoded_as(fields: Sequence[Field], word: str) -> list[Field]:
    """Return the fields with the encoding named where it was named before, else at the end."""
    name = "Content-Transfer-Encoding"
    field = Field(name, f"{name}: {word}".encode("ascii"))
    at = next((n for n, each in enumerate(fields) if each.key == _ENCODING), len(fields))
    others = [each for each in fields if each.key != _ENCODING]
    return [*others[:at], field, *others[at:]]


def delimiters(body: bytes, boundary: bytes) -> Iterator[tuple[int, int, bool]]:
    """Yield where each delimiter line begins (with the line end before it) and ends, and whether
    it is the last."""
    # Looked for as plain octets, which beats any expression by twenty times.
    mark = b"--" + boundary
    at = body.find(mark)
    while at >= 0:
        rest = _DELIMITER_END.match(body, at + len(mark))
        is_at_line = at == 0 or body.endswith(CRLF, 0, at)
        if rest is not None and is_at_line:
            yield max(0, at - len(CRLF)), rest.end(), rest[1] is not None
        at = body.find(mark, at + len(mark))


def holds_boundary(body: bytes, boundaries: Sequence[bytes]) -> bool:
    """Whether a line of a part may be taken for a delimiter of a container around it."""
    marks = tuple(b"--" + boundary for boundary in boundaries)
    if not marks or b"--" not in body:
        return False
    return any(line.startswith(marks) for line in body.split(CRLF))


def base64_anew(body: bytes) -> bytes:
    """Break base64 into lines of 76, without what every reader skips (RFC 2045 §6.8)."""
    characters = _NOT_BASE64.sub(b"", body)
    lines = [characters[start : start + 76] for start in range(0, len(characters), 76)]
    return CRLF.join([*lines, b""] if body.endswith(CRLF) else lines)


def is_base64(body: bytes) -> bool:
    """Whether it can be decoded."""
    try:
        binascii.a2b_base64(body)
    except binascii.Error:
        return False
    return True
