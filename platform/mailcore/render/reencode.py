"""Give the texts of a message the content transfer encoding an ISP is sent.

Gives    reencode
Takes    sound content (`render.repair`), before it is signed; the encodings of an ISP
Raises   nothing: what cannot be read, or must not change, stays as it is
Follows  reference/mta-model.md §5 (global, HTML, text); RFC 2045 §6 (what may be encoded, and that
         a container says what is in it), RFC 2046 §5.1 (boundaries), RFC 5321 §4.5.3.1.6 (lines)

Readers see the same octets as before. Left alone are: attachments and whatever is no text; signed
and encrypted parts and enclosed messages; parts whose encoding is unknown or damaged; and a message
that somebody has signed with DKIM, for a signature that fails is worse than any encoding.

The finished message ends in a line end. So a text that ended in none gets one if it travels in
eight bits, where nothing could say that it is not part of the text.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass

from mailcore.errors import SubmissionRefused
from mailcore.policy.words import Encoding
from mailcore.render.build import base64_lines, longest_line, quoted_printable
from mailcore.render.content import (
    MAX_LINE,
    Field,
    join_content,
    parse_fields,
    split_content,
)
from mailcore.render.mime import (
    CRLF,
    IDENTITY,
    MAX_DEPTH,
    QP_FAULT,
    SEALED,
    Kind,
    delimiters,
    encoded_as,
    encoding_of,
    holds_boundary,
    kind_of,
)

# The parts of a digest are messages unless they say otherwise.
_KEPT = SEALED | {"multipart/digest"}
_SIGNATURES = frozenset({"dkim-signature", "arc-message-signature"})


@dataclass(frozen=True, slots=True)
class _Wish:
    overall: Encoding
    html: Encoding
    text: Encoding

    def of(self, content_type: str) -> Encoding:
        """What a kind of text is sent in; a kind without a word of its own goes as all do."""
        own = {"text/html": self.html, "text/plain": self.text}.get(content_type, self.overall)
        return self.overall if own is Encoding.AS_SUBMITTED else own


def reencode(content: bytes, *, overall: Encoding, html: Encoding, text: Encoding) -> bytes:
    """Return the message with its texts encoded as an ISP wants them.

    `html` and `text` are for these two kinds, `overall` for other texts and where those say
    AS_SUBMITTED. The same object is returned if nothing has to change.
    """
    wish = _Wish(overall, html, text)
    if {overall, html, text} == {Encoding.AS_SUBMITTED}:
        return content
    return _entity(content, wish, (), is_root=True)


def _entity(
    entity: bytes, wish: _Wish, boundaries: Sequence[bytes], *, is_root: bool = False
) -> bytes:
    head, body = split_content(entity)
    try:
        fields = parse_fields(head, pointer="")
    except SubmissionRefused:
        return entity
    if is_root and any(field.key in _SIGNATURES for field in fields):
        return entity
    kind = kind_of(fields)
    if kind is None:
        return entity
    if kind.maintype == "multipart":
        return _container(entity, fields, body, kind, wish, boundaries)
    if kind.maintype != "text" or kind.is_attachment:
        return entity
    wanted = wish.of(kind.content_type)
    changed = _leaf(fields, body, wanted, boundaries, ends_message=is_root)
    if changed is None:
        return entity
    word, body = changed
    return join_content(encoded_as(fields, word), body)


# ── containers ────────────────────────────────────────────────────────────────────────────────


def _container(
    entity: bytes,
    fields: list[Field],
    body: bytes,
    kind: Kind,
    wish: _Wish,
    boundaries: Sequence[bytes],
) -> bytes:
    is_sealed = kind.content_type in _KEPT
    # A container is never encoded itself (RFC 2045 §6.4); one that says so is not understood.
    said = encoding_of(fields)
    is_clear = kind.boundary and len(boundaries) < MAX_DEPTH and said in IDENTITY
    if is_sealed or not is_clear:
        return entity
    changed = _parts(body, kind.boundary, wish, (*boundaries, kind.boundary))
    if changed is body:
        return entity
    if not changed.isascii():
        fields = fields if said == b"binary" else encoded_as(fields, "8bit")
    elif said != b"7bit":
        fields = encoded_as(fields, "7bit")
    return join_content(fields, changed)


def _parts(body: bytes, boundary: bytes, wish: _Wish, boundaries: Sequence[bytes]) -> bytes:
    """Return the body with its parts encoded; the same object if none had to be."""
    pieces: list[bytes] = []
    kept_from = 0
    start: int | None = None
    for begins, ends, is_last in delimiters(body, boundary):
        if start is not None:
            entity = body[start:begins].removeprefix(CRLF)
            encoded = _entity(entity, wish, boundaries)
            if encoded is not entity:
                pieces += (body[kept_from:start], CRLF, encoded)
                kept_from = begins
        if is_last:
            break
        start = ends
    return b"".join([*pieces, body[kept_from:]]) if pieces else body


# ── texts ─────────────────────────────────────────────────────────────────────────────────────


def _leaf(
    fields: Sequence[Field],
    body: bytes,
    wanted: Encoding,
    boundaries: Sequence[bytes],
    *,
    ends_message: bool,
) -> tuple[str, bytes] | None:
    """Return the encoding to name and the body in it, or None to leave the part alone."""
    said = encoding_of(fields)
    if wanted is Encoding.AS_SUBMITTED or said == wanted.value.encode():
        return None
    if said in IDENTITY and wanted is Encoding.EIGHT_BIT:
        return None
    data = _decoded(said, body)
    if data is None or (not data and not body):
        return None
    # The last line end of a message may belong to its encoding, and never to a part's.
    word, encoded = _encoded(data, wanted, ends_message=ends_message)
    if holds_boundary(encoded, boundaries):
        # Hyphens are what they are in any encoding but one.
        word, encoded = "base64", base64_lines(data)
    return None if word.encode() == said else (word, encoded)


def _decoded(said: bytes, body: bytes) -> bytes | None:
    """Return what a reader sees; None for what two readers may see differently."""
    if said in IDENTITY:
        return body
    if said == b"quoted-printable":
        # Blanks at the end of a line may have been put there by a transport (RFC 2045 §6.7).
        is_padded = b" \r\n" in body or b"\t\r\n" in body or body.endswith((b" ", b"\t"))
        if is_padded or not body.isascii() or QP_FAULT.search(body):
            return None
        return binascii.a2b_qp(body)
    if said == b"base64":
        try:
            return base64.b64decode(b"".join(body.split()), validate=True)
        except binascii.Error:
            return None
    return None


def _encoded(data: bytes, wanted: Encoding, *, ends_message: bool) -> tuple[str, bytes]:
    is_open = ends_message and not data.endswith(CRLF)
    if wanted is Encoding.BASE64:
        return "base64", base64_lines(data) + (CRLF if ends_message else b"")
    if wanted is Encoding.EIGHT_BIT and _fits_lines(data):
        word = "7bit" if data.isascii() else "8bit"
        return word, data + (CRLF if is_open else b"")
    text = data.removesuffix(CRLF)
    # A soft line break says that the text ended before the line does.
    tail = data[len(text) :] or (b"=\r\n" if is_open else b"")
    return "quoted-printable", quoted_printable(text) + tail


def _fits_lines(data: bytes) -> bool:
    """Whether octets may travel as they are: lines end in CRLF, and none is too long."""
    ends = data.count(CRLF)
    are_lines = ends == data.count(b"\n") == data.count(b"\r")
    return are_lines and b"\0" not in data and longest_line(data) <= MAX_LINE
