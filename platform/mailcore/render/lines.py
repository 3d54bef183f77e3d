"""Encode those parts of a message anew that have a line over 998 octets.

Gives    shorten_lines
Raises   SubmissionRefused for a signed or encrypted part with such a line, since encoding it would
         break what it is for; and for nesting beyond any sense
Follows  RFC 2045 §6 (a multipart or message is never encoded itself), RFC 2046 §5.1 (boundaries)
"""

from __future__ import annotations

import binascii
import re
from email import message_from_bytes
from email.message import Message

from mailcore.render.build import base64_lines, encode_body, longest_line, quoted_printable
from mailcore.render.content import (
    MAX_LINE,
    Field,
    fold_field,
    join_content,
    parse_fields,
    refuse,
    split_content,
)

_MAX_DEPTH = 20
_SEALED = frozenset({"multipart/signed", "multipart/encrypted"})
_ENCODING = "content-transfer-encoding"


def shorten_lines(
    fields: list[Field], body: bytes, *, pointer: str, depth: int = 0
) -> tuple[list[Field], bytes]:
    """Return fields and body with no line over 998 octets; parts without one stay as they are."""
    fields = [fold_field(field, pointer=pointer) for field in fields]
    if longest_line(body) <= MAX_LINE:
        return fields, body
    if depth > _MAX_DEPTH:
        refuse(pointer, "mime_too_deep", f"parts are nested more than {_MAX_DEPTH} deep")
    kind = _content_type(fields)
    if kind.get_content_type() in _SEALED:
        refuse(
            pointer,
            "line_too_long",
            f"a {kind.get_content_type()} part has a line over {MAX_LINE} octets",
        )
    boundary = kind.get_boundary()
    if kind.get_content_maintype() == "multipart" and boundary:
        return fields, _shorten_parts(body, str(boundary), pointer=pointer, depth=depth)
    if kind.get_content_maintype() == "message":
        return fields, _shorten_entity(body, pointer=pointer, depth=depth)
    return _encode_leaf(fields, body, is_text=kind.get_content_maintype() == "text")


def _content_type(fields: list[Field]) -> Message:
    head = b"\r\n".join(field.raw for field in fields if field.key == "content-type")
    return message_from_bytes(head + b"\r\n\r\n")


def _shorten_entity(entity: bytes, *, pointer: str, depth: int) -> bytes:
    head, body = split_content(entity)
    fields = parse_fields(head, pointer=pointer)
    return join_content(*shorten_lines(fields, body, pointer=pointer, depth=depth + 1))


def _shorten_parts(body: bytes, boundary: str, *, pointer: str, depth: int) -> bytes:
    mark = re.escape(boundary.encode("utf-8", "surrogateescape"))
    delimiter = re.compile(rb"(?:\A|\r\n)--" + mark + rb"(--)?[ \t]*(?=\r\n|\Z)")
    pieces: list[bytes] = []
    position = 0
    is_part = False
    for match in delimiter.finditer(body):
        pieces.append(_shorten_piece(body[position : match.start()], is_part, pointer, depth))
        pieces.append(match[0])
        position = match.end()
        is_part = match[1] is None
        if not is_part:
            break
    pieces.append(_shorten_piece(body[position:], is_part, pointer, depth))
    return b"".join(pieces)


def _shorten_piece(piece: bytes, is_part: bool, pointer: str, depth: int) -> bytes:
    """A part starts with the line end of its delimiter; what is no part, nobody reads."""
    if longest_line(piece) <= MAX_LINE:
        return piece
    if is_part:
        entity = piece.removeprefix(b"\r\n")
        return b"\r\n" + _shorten_entity(entity, pointer=pointer, depth=depth)
    lines = (line[:MAX_LINE] for line in piece.split(b"\r\n"))
    return b"\r\n".join(lines)


def _encode_leaf(fields: list[Field], body: bytes, *, is_text: bool) -> tuple[list[Field], bytes]:
    encoding = next((f.value.lower() for f in fields if f.key == _ENCODING), b"7bit")
    if encoding == b"base64":
        return fields, _base64_anew(body)
    if encoding == b"quoted-printable":
        text = body.removesuffix(b"\r\n")
        return fields, quoted_printable(binascii.a2b_qp(text)) + body[len(text) :]
    kept = [field for field in fields if field.key != _ENCODING]
    word, data = encode_body(body) if is_text else ("base64", base64_lines(body))
    if word == "base64" and body.endswith(b"\r\n"):
        data += b"\r\n"
    raw = f"Content-Transfer-Encoding: {word}".encode("ascii")
    return [*kept, Field("Content-Transfer-Encoding", raw)], data


def _base64_anew(body: bytes) -> bytes:
    """Break base64 into lines; what decodes to nothing sensible keeps its characters."""
    characters = b"".join(body.split())
    lines = [characters[start : start + 76] for start in range(0, len(characters), 76)]
    return b"\r\n".join([*lines, b""] if body.endswith(b"\r\n") else lines)
