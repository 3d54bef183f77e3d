"""Convert a message for a server that takes no 8-bit content.

Gives    to_7bit: content -> the same message in seven bits
Takes    sound content (`render.repair`), before it is signed: every octet may change
Raises   SubmissionRefused where converting would break what a part is for: signed or encrypted
         parts, and header fields that only SMTPUTF8 can carry
Follows  RFC 6152 §3 (convert or return), RFC 2045 §6.4 (what may be encoded), RFC 2047
"""

from __future__ import annotations

import re
from email import message_from_bytes
from email.message import Message

from mailcore.render.build import base64_lines, quoted_printable
from mailcore.render.content import (
    Field,
    encode_text,
    join_content,
    parse_fields,
    refuse,
    split_content,
)

_MAX_DEPTH = 20
_SEALED = frozenset({"multipart/signed", "multipart/encrypted"})
_ENCODING = "content-transfer-encoding"
# Their values have a grammar that an encoded word must not stand in.
_STRUCTURED = frozenset(
    {"cc", "content-disposition", "content-type", "from", "reply-to", "sender", "to"}
)


def to_7bit(content: bytes, *, pointer: str = "/raw") -> bytes:
    """Return the message in seven bits; what is in seven bits already is left alone."""
    return content if content.isascii() else _entity(content, pointer=pointer, depth=0)


def _entity(entity: bytes, *, pointer: str, depth: int) -> bytes:
    if entity.isascii():
        return entity
    if depth > _MAX_DEPTH:
        refuse(pointer, "mime_too_deep", f"parts are nested more than {_MAX_DEPTH} deep")
    head, body = split_content(entity)
    fields = [_ascii(field, pointer) for field in parse_fields(head, pointer=pointer)]
    if body.isascii():
        return join_content(fields, body)
    kind = _content_type(fields)
    if kind.get_content_type() in _SEALED:
        detail = f"a {kind.get_content_type()} part in eight bits cannot be converted"
        refuse(pointer, "8bit_sealed", detail)
    boundary = kind.get_boundary()
    if kind.get_content_maintype() == "multipart" and boundary:
        body = _parts(body, str(boundary), pointer=pointer, depth=depth)
        return join_content(_encoded_as(fields, "7bit"), body)
    if kind.get_content_type() == "message/rfc822":
        body = _entity(body, pointer=pointer, depth=depth + 1)
        return join_content(_encoded_as(fields, "7bit"), body)
    text = body.removesuffix(b"\r\n")
    end = body[len(text) :]
    if kind.get_content_maintype() == "text":
        return join_content(_encoded_as(fields, "quoted-printable"), quoted_printable(text) + end)
    return join_content(_encoded_as(fields, "base64"), base64_lines(text) + end)


def _parts(body: bytes, boundary: str, *, pointer: str, depth: int) -> bytes:
    mark = re.escape(boundary.encode("utf-8", "surrogateescape"))
    delimiter = re.compile(rb"(?:\A|\r\n)--" + mark + rb"(--)?[ \t]*(?=\r\n|\Z)")
    pieces: list[bytes] = []
    position, is_part = 0, False
    for match in delimiter.finditer(body):
        pieces += (_piece(body[position : match.start()], is_part, pointer, depth), match[0])
        position = match.end()
        is_part = match[1] is None
        if not is_part:
            break
    pieces.append(_piece(body[position:], is_part, pointer, depth))
    return b"".join(pieces)


def _piece(piece: bytes, is_part: bool, pointer: str, depth: int) -> bytes:
    """A part starts with the line end of its delimiter; what is no part, nobody reads."""
    if is_part:
        return b"\r\n" + _entity(piece.removeprefix(b"\r\n"), pointer=pointer, depth=depth + 1)
    return piece.decode("ascii", "replace").encode("ascii", "replace")


def _ascii(field: Field, pointer: str) -> Field:
    if field.raw.isascii():
        return field
    if field.key in _STRUCTURED:
        refuse(pointer, "8bit_header", f"the field {field.name} cannot be written in ASCII")
    return Field(field.name, encode_text(field.name, field.value.decode("utf-8", "replace")))


def _encoded_as(fields: list[Field], word: str) -> list[Field]:
    kept = [field for field in fields if field.key != _ENCODING]
    name = "Content-Transfer-Encoding"
    return [*kept, Field(name, f"{name}: {word}".encode("ascii"))]


def _content_type(fields: list[Field]) -> Message:
    head = b"\r\n".join(field.raw for field in fields if field.key == "content-type")
    return message_from_bytes(head + b"\r\n\r\n")
