"""Encode those parts of a message anew that have a line over 998 octets.

Gives    shorten_lines
Raises   SubmissionRefused for a signed or encrypted part with such a line, since encoding it would
         break what it is for, for one in an encoding we do not know or of a type nobody can read;
         and for nesting beyond any sense
Follows  RFC 2045 §6 (a multipart or message is never encoded itself), RFC 2046 §5.1 (boundaries)
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from typing import NoReturn

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
from mailcore.render.mime import (
    CRLF,
    IDENTITY,
    MAX_DEPTH,
    SEALED,
    base64_anew,
    delimiters,
    encoded_as,
    encoding_of,
    holds_boundary,
    kind_of,
)


def shorten_lines(
    fields: list[Field],
    body: bytes,
    boundaries: Sequence[bytes] = (),
    *,
    pointer: str,
    depth: int = 0,
) -> tuple[list[Field], bytes]:
    """Return fields and body with no line over 998 octets; parts without one stay as they are.

    No line of them becomes a delimiter of the containers around, which have these boundaries.
    """
    fields = [fold_field(field, pointer=pointer) for field in fields]
    if longest_line(body) <= MAX_LINE:
        return fields, body
    if depth > MAX_DEPTH:
        refuse(pointer, "mime_too_deep", f"parts are nested more than {MAX_DEPTH} deep")
    kind = kind_of(fields)
    if kind is None:
        _refuse_line(pointer, "whose type cannot be read")
    if kind.content_type in SEALED:
        _refuse_line(pointer, f"of type {kind.content_type}")
    if kind.maintype == "multipart" and kind.boundary:
        around = (*boundaries, kind.boundary)
        return fields, _shorten_parts(body, around, pointer=pointer, depth=depth)
    if kind.maintype == "message":
        return fields, _shorten_entity(body, boundaries, pointer=pointer, depth=depth)
    said = encoding_of(fields)
    if said not in IDENTITY and said not in (b"base64", b"quoted-printable"):
        _refuse_line(pointer, f"encoded as {said[:40].decode('ascii', 'replace')}")
    return _encode_leaf(fields, body, said, boundaries, is_text=kind.maintype == "text")


def _refuse_line(pointer: str, which: str) -> NoReturn:
    refuse(pointer, "line_too_long", f"a part {which} has a line over {MAX_LINE} octets")


def _shorten_entity(
    entity: bytes, boundaries: Sequence[bytes], *, pointer: str, depth: int
) -> bytes:
    head, body = split_content(entity)
    fields = parse_fields(head, pointer=pointer)
    return join_content(*shorten_lines(fields, body, boundaries, pointer=pointer, depth=depth + 1))


def _shorten_parts(body: bytes, boundaries: Sequence[bytes], *, pointer: str, depth: int) -> bytes:
    pieces: list[bytes] = []
    position, is_part = 0, False
    for begins, ends, is_last in delimiters(body, boundaries[-1]):
        pieces.append(_shorten_piece(body[position:begins], is_part, boundaries, pointer, depth))
        pieces.append(body[begins:ends])
        position, is_part = ends, not is_last
        if is_last:
            break
    pieces.append(_shorten_piece(body[position:], is_part, boundaries, pointer, depth))
    return b"".join(pieces)


def _shorten_piece(
    piece: bytes, is_part: bool, boundaries: Sequence[bytes], pointer: str, depth: int
) -> bytes:
    """A part starts with the line end of its delimiter; what is no part, nobody reads."""
    if longest_line(piece) <= MAX_LINE:
        return piece
    if is_part:
        entity = piece.removeprefix(CRLF)
        return CRLF + _shorten_entity(entity, boundaries, pointer=pointer, depth=depth)
    return CRLF.join(line if len(line) <= MAX_LINE else b"" for line in piece.split(CRLF))


def _encode_leaf(
    fields: list[Field], body: bytes, said: bytes, boundaries: Sequence[bytes], *, is_text: bool
) -> tuple[list[Field], bytes]:
    """Encode a part in the encoding it has, or in one that suits it."""
    if said == b"base64":
        return fields, base64_anew(body)
    if said == b"quoted-printable":
        text = body.removesuffix(CRLF)
        plain, end = binascii.a2b_qp(text), body[len(text) :]
        word, data, body = "quoted-printable", quoted_printable(plain) + end, plain + end
    else:
        word, data = encode_body(body) if is_text else ("base64", base64_lines(body))
    if holds_boundary(data, boundaries):
        word, data = "base64", base64_lines(body)
    if word == "base64" and body.endswith(CRLF):
        data += CRLF
    if word.encode("ascii") == said:
        return fields, data
    return encoded_as(fields, word), data
