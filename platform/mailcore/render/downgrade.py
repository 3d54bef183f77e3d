"""Convert a message for a server that takes no 8-bit content.

Gives    to_7bit: content -> the same message in seven bits
Takes    sound content (`render.repair`), before it is signed: every octet may change
Raises   SubmissionRefused where converting would break what a part is for: signed or encrypted
         parts, those in an encoding we do not know or of a type nobody can read, and header fields
         that only SMTPUTF8 can carry
Follows  RFC 6152 §3 (convert or return), RFC 2045 §6.4 (what may be encoded), RFC 2047
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Sequence

from mailcore.render.build import base64_lines, longest_line, quoted_printable
from mailcore.render.content import (
    MAX_LINE,
    Field,
    encode_text,
    join_content,
    parse_fields,
    refuse,
    split_content,
)
from mailcore.render.mime import (
    CRLF,
    IDENTITY,
    MAX_DEPTH,
    QP_FAULT,
    SEALED,
    base64_anew,
    delimiters,
    encoded_as,
    encoding_of,
    holds_boundary,
    is_base64,
    kind_of,
)

_EIGHT_BIT = re.compile(rb"[\x80-\xff]")
# Their values have a grammar that an encoded word must not stand in.
_STRUCTURED = frozenset(
    {"cc", "content-disposition", "content-type", "from", "reply-to", "sender", "to"}
)


def to_7bit(content: bytes, *, pointer: str = "/raw") -> bytes:
    """Return the message in seven bits; what is in seven bits already is left alone."""
    return content if content.isascii() else _entity(content, (), pointer=pointer, depth=0)


def _entity(entity: bytes, boundaries: Sequence[bytes], *, pointer: str, depth: int) -> bytes:
    """Convert a part; no line of it may become a delimiter of the containers it is in."""
    if entity.isascii():
        return entity
    if depth > MAX_DEPTH:
        refuse(pointer, "mime_too_deep", f"parts are nested more than {MAX_DEPTH} deep")
    head, body = split_content(entity)
    fields = [_ascii(field, pointer) for field in parse_fields(head, pointer=pointer)]
    if body.isascii():
        return join_content(fields, body)
    kind = kind_of(fields)
    if kind is None:
        refuse(pointer, "content_type", "a part in eight bits has a type that cannot be read")
    if kind.content_type in SEALED:
        detail = f"a {kind.content_type} part in eight bits cannot be converted"
        refuse(pointer, "8bit_sealed", detail)
    if kind.maintype == "multipart" and kind.boundary:
        body = _parts(body, kind.boundary, boundaries, pointer=pointer, depth=depth)
        return join_content(encoded_as(fields, "7bit"), body)
    if kind.content_type == "message/rfc822":
        body = _entity(body, boundaries, pointer=pointer, depth=depth + 1)
        return join_content(encoded_as(fields, "7bit"), body)
    said = encoding_of(fields)
    if said == b"base64" and is_base64(encoded := base64_anew(body)):
        return join_content(fields, encoded)
    if said == b"quoted-printable":
        encoded = _escaped(body)
        if not holds_boundary(encoded, boundaries):
            return join_content(fields, encoded)
        body = binascii.a2b_qp(body)
    elif said not in IDENTITY:
        detail = f"a part in eight bits says that it is encoded as {said[:40].decode('ascii')}"
        refuse(pointer, "8bit_encoded", detail)
    elif kind.maintype == "text":
        text = body.removesuffix(CRLF)
        encoded = quoted_printable(text) + body[len(text) :]
        if not holds_boundary(encoded, boundaries):
            return join_content(encoded_as(fields, "quoted-printable"), encoded)
    end = CRLF if body.endswith(CRLF) else b""
    return join_content(encoded_as(fields, "base64"), base64_lines(body) + end)


def _escaped(body: bytes) -> bytes:
    """Encode what quoted-printable may not hold, and leave the rest as it was encoded."""
    if not QP_FAULT.search(body):
        escaped = _EIGHT_BIT.sub(lambda found: b"=%02X" % found[0][0], body)
        if longest_line(escaped) <= MAX_LINE:
            return escaped
    text = body.removesuffix(CRLF)
    return quoted_printable(binascii.a2b_qp(text)) + body[len(text) :]


def _parts(
    body: bytes, boundary: bytes, around: Sequence[bytes], *, pointer: str, depth: int
) -> bytes:
    boundaries = (*around, boundary)
    pieces: list[bytes] = []
    position, is_part = 0, False
    for begins, ends, is_last in delimiters(body, boundary):
        pieces.append(_piece(body[position:begins], is_part, boundaries, pointer, depth))
        pieces.append(body[begins:ends])
        position, is_part = ends, not is_last
        if is_last:
            break
    pieces.append(_piece(body[position:], is_part, boundaries, pointer, depth))
    return b"".join(pieces)


def _piece(
    piece: bytes, is_part: bool, boundaries: Sequence[bytes], pointer: str, depth: int
) -> bytes:
    """A part starts with the line end of its delimiter; what is no part, nobody reads."""
    if piece.isascii():
        return piece
    if is_part:
        entity = piece.removeprefix(CRLF)
        return CRLF + _entity(entity, boundaries, pointer=pointer, depth=depth + 1)
    return CRLF.join(line if line.isascii() else b"" for line in piece.split(CRLF))


def _ascii(field: Field, pointer: str) -> Field:
    if field.raw.isascii():
        return field
    if field.key in _STRUCTURED:
        refuse(pointer, "8bit_header", f"the field {field.name} cannot be written in ASCII")
    return Field(field.name, encode_text(field.name, field.value.decode("utf-8", "replace")))
