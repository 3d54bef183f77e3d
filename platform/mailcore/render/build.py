"""Build a message from parts: texts, attachments, header fields.

Gives    Parts, Mailbox, Attachment; build
Takes    values that were checked already: no CR, LF, NUL or lone surrogate in header text
Follows  RFC 5322 §3.6; RFC 2045 §6 and RFC 2046 §5 (encodings, multipart); RFC 2183 and RFC 2231
         (file names); RFC 2387 (related)

Every line of the result is at most 998 octets and the body is 7-bit, so any server takes it. It is
built once a request, whatever the number of recipients.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from urllib.parse import quote
from uuid import UUID

from mailcore.address import ForwardPath
from mailcore.render.content import (
    Content,
    encode_text,
    encode_words,
    format_mailbox,
    message_id_of,
)

CRLF = b"\r\n"
_SAFE_LINE = 900
# The standard library makes some lines a little too long: before a bare line feed, and where a
# blank at the end of a line takes three characters.
_LONG_QP_LINE = re.compile(rb"(?m)^[^\r\n]{77,}")


@dataclass(frozen=True, slots=True)
class Mailbox:
    """An address with the name to show."""

    name: str
    address: ForwardPath


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file. One with a `content_id` or `is_inline` belongs to the HTML part."""

    filename: str
    content_type: str
    content: bytes
    content_id: str = ""
    is_inline: bool = False


@dataclass(frozen=True, slots=True)
class Parts:
    """What a message is made of."""

    sender: Mailbox
    to: tuple[Mailbox, ...] = ()
    cc: tuple[Mailbox, ...] = ()
    reply_to: tuple[Mailbox, ...] = ()
    subject: str = ""
    text: str | None = None
    html: str | None = None
    attachments: tuple[Attachment, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    message_id_header: str = ""


def build(parts: Parts, *, message_id: UUID, date: datetime) -> Content:
    """Return the message of these parts."""
    address = parts.sender.address
    header_id = parts.message_id_header or message_id_of(message_id, address.domain)
    lines = [_mailboxes("From", (parts.sender,))]
    for name, mailboxes in (("To", parts.to), ("Cc", parts.cc), ("Reply-To", parts.reply_to)):
        if mailboxes:
            lines.append(_mailboxes(name, mailboxes))
    lines += [
        encode_text("Subject", parts.subject),
        f"Date: {format_datetime(date)}".encode("ascii"),
        f"Message-ID: {header_id}".encode("ascii"),
        b"MIME-Version: 1.0",
    ]
    lines += [encode_text(name, value) for name, value in parts.headers]
    body = _body(parts, boundary=f"=_{message_id.hex}")
    if not body.endswith(CRLF):
        body += CRLF
    return Content(CRLF.join([*lines, body]), address, header_id, parts.subject)


def _mailboxes(name: str, mailboxes: tuple[Mailbox, ...]) -> bytes:
    shown = [format_mailbox(m.name, m.address, used=len(name) + 2) for m in mailboxes]
    return f"{name}: {f',{chr(13)}{chr(10)} '.join(shown)}".encode()


# ── entities: header lines, an empty line, a body ─────────────────────────────────────────────


def _body(parts: Parts, *, boundary: str) -> bytes:
    related = [a for a in parts.attachments if parts.html is not None and _is_related(a)]
    mixed = [a for a in parts.attachments if a not in related]
    texts: list[bytes] = []
    if parts.text is not None:
        texts.append(_text("plain", parts.text))
    if parts.html is not None:
        html = _text("html", parts.html)
        if related:
            entities = [html, *(_attachment(a) for a in related)]
            html = _multipart('related; type="text/html"', entities, f"{boundary}_r")
        texts.append(html)
    main = texts if len(texts) < 2 else [_multipart("alternative", texts, f"{boundary}_a")]
    entities = [*main, *(_attachment(a) for a in mixed)]
    if not entities:
        return _text("plain", "")
    return entities[0] if len(entities) == 1 else _multipart("mixed", entities, f"{boundary}_m")


def _is_related(attachment: Attachment) -> bool:
    return attachment.is_inline or bool(attachment.content_id)


def _multipart(subtype: str, entities: list[bytes], boundary: str) -> bytes:
    kind, _, rest = subtype.partition(";")
    type_line = f'Content-Type: multipart/{kind};{rest and rest + ";"}\r\n boundary="{boundary}"'
    mark = f"--{boundary}".encode("ascii")
    pieces = [type_line.encode("ascii"), CRLF, CRLF]
    for entity in entities:
        pieces += [mark, CRLF, entity, CRLF]
    return b"".join([*pieces, mark, b"--", CRLF])


def _text(subtype: str, text: str) -> bytes:
    data = to_crlf(text.encode())
    encoding, data = encode_body(data)
    head = (
        f"Content-Type: text/{subtype}; charset=utf-8\r\n"
        f"Content-Transfer-Encoding: {encoding}\r\n\r\n"
    )
    return head.encode("ascii") + data


def _attachment(attachment: Attachment) -> bytes:
    disposition = "inline" if _is_related(attachment) else "attachment"
    lines = [
        f"Content-Type: {attachment.content_type}{_parameter('name', attachment.filename)}",
        f"Content-Disposition: {disposition}{_parameter('filename', attachment.filename)}",
        "Content-Transfer-Encoding: base64",
    ]
    if attachment.content_id:
        lines.append(f"Content-ID: <{attachment.content_id}>")
    head = "\r\n".join([*lines, "", ""]).encode("ascii")
    return head + base64_lines(attachment.content)


def _parameter(name: str, text: str) -> str:
    """A file name as a parameter: quoted, or in RFC 2231; for `name`, which old readers look at,
    as the encoded word that they understand."""
    if not text:
        return ""
    if not text.isascii():
        if name == "name":
            return f';\r\n name="{encode_words(text, used=7)}"'
        return f";\r\n {name}*=utf-8''{quote(text, safe='')}"
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f';\r\n {name}="{quoted}"'


# ── transfer encodings ────────────────────────────────────────────────────────────────────────


def to_crlf(data: bytes) -> bytes:
    """Return the bytes with every line end, however written, as CRLF."""
    ends = data.count(b"\r\n")
    if ends == data.count(b"\n") == data.count(b"\r"):
        return data
    return data.replace(CRLF, b"\n").replace(b"\r", b"\n").replace(b"\n", CRLF)


def longest_line(data: bytes) -> int:
    """Return the length of the longest line of CRLF text, its CRLF not counted."""
    *ended, last = data.split(b"\n")
    return max(max(map(len, ended), default=1) - 1, len(last))


def base64_lines(data: bytes) -> bytes:
    """Return base64 in lines of 76, the last one without a line end."""
    return base64.encodebytes(data).replace(b"\n", CRLF).removesuffix(CRLF)


def quoted_printable(data: bytes) -> bytes:
    """Return quoted-printable in lines of at most 76; line ends stay where all are CRLF."""
    ends = data.count(CRLF)
    is_text = ends == data.count(b"\n") == data.count(b"\r")
    encoded = to_crlf(binascii.b2a_qp(data, istext=is_text))
    return _LONG_QP_LINE.sub(_broken_line, encoded)


def _broken_line(match: re.Match[bytes]) -> bytes:
    line, cut = match[0], 72
    while b"=" in line[cut - 2 : cut]:
        cut -= 1
    return line[:cut] + b"=\r\n" + line[cut:]


def encode_body(data: bytes) -> tuple[str, bytes]:
    """Return the encoding that suits CRLF text best, and the text in it."""
    if data.isascii() and longest_line(data) <= _SAFE_LINE:
        return "7bit", data
    if data.count(b"=") + _count_8bit(data) <= len(data) // 6:
        return "quoted-printable", quoted_printable(data)
    return "base64", base64_lines(data)


def _count_8bit(data: bytes) -> int:
    return len(data) - len(data.translate(None, delete=_EIGHT_BIT))


_EIGHT_BIT = bytes(range(128, 256))
