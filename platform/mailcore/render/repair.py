"""Repair a message as a client brought it, so that any server takes it.

Gives    repair: bytes -> Content
Raises   SubmissionRefused: NUL, a damaged header section, no From or an ambiguous one, a field
         that may stand once and stands twice, a line that cannot be shortened
Follows  RFC 5322 §2.1.1 (line length) and §3.6 (fields), RFC 2045 §6, design.md section 3 step 1

What is sound is left alone, to the octet: parts are encoded anew only when a line of theirs is
over 998 octets. Repairing twice changes nothing more.
"""

from __future__ import annotations

import re
from datetime import datetime
from email.utils import format_datetime
from uuid import UUID

from mailcore.address import ForwardPath
from mailcore.errors import AddressError
from mailcore.render.build import longest_line, to_crlf
from mailcore.render.content import (
    MAX_LINE,
    Content,
    Field,
    decode_text,
    encode_mailboxes,
    encode_text,
    fold_field,
    join_content,
    message_id_of,
    parse_fields,
    read_mailbox,
    refuse,
    split_content,
)
from mailcore.render.lines import shorten_lines

_DROPPED = frozenset({"bcc", "resent-bcc", "return-path"})
_DROPPED_PREFIX = "x-postfleet-"
_ONCE = frozenset(
    {
        "cc", "content-transfer-encoding", "content-type", "date", "from", "in-reply-to",
        "message-id", "mime-version", "references", "reply-to", "sender", "subject", "to",
    }
)  # fmt: skip
_ADDRESSES = frozenset({"cc", "from", "reply-to", "sender", "to"})
_STRUCTURED = frozenset({"content-disposition", "content-type", "dkim-signature", "received"})
_MESSAGE_ID = re.compile(rb"<[^<>\s@]+@[^<>\s@]+>\Z")


def repair(raw: bytes, *, message_id: UUID, date: datetime, pointer: str = "/raw") -> Content:
    """Return the message in a form that can be sent, or say why there is none."""
    if b"\0" in raw:
        refuse(pointer, "nul", "the message contains a NUL octet")
    head, body = split_content(to_crlf(raw))
    fields = [
        _recoded(field, pointer=pointer)
        for field in parse_fields(head, pointer=pointer)
        if field.key not in _DROPPED and not field.key.startswith(_DROPPED_PREFIX)
    ]
    first = _unique(fields, pointer=pointer)
    address = _header_from(first.get("from"), pointer=pointer)
    fields += _missing(first, body, message_id=message_id, date=date, domain=address.domain)
    header_id = next(f.value for f in reversed(fields) if f.key == "message-id")
    if not _MESSAGE_ID.match(header_id):
        header_id = message_id_of(message_id, address.domain).encode("ascii")
        fields = [f for f in fields if f.key != "message-id"]
        fields.append(Field("Message-ID", b"Message-ID: " + header_id))
    if body and not body.endswith(b"\r\n"):
        body += b"\r\n"
    fields = [fold_field(field, pointer=pointer) for field in fields]
    if longest_line(body) > MAX_LINE:
        fields, body = shorten_lines(fields, body, pointer=pointer)
    subject = first.get("subject")
    return Content(
        join_content(fields, body),
        address,
        header_id.decode("ascii", "replace"),
        decode_text(subject.value) if subject else "",
    )


def _unique(fields: list[Field], *, pointer: str) -> dict[str, Field]:
    first: dict[str, Field] = {}
    for field in fields:
        if field.key in _ONCE and field.key in first:
            refuse(pointer, "duplicate_header", f"the field {field.name} stands more than once")
        first.setdefault(field.key, field)
    return first


def _header_from(field: Field | None, *, pointer: str) -> ForwardPath:
    if field is None:
        refuse(pointer, "from_missing", "the message has no From field")
    try:
        return read_mailbox(field.value.decode("utf-8"))[1]
    except AddressError as exc:
        refuse(pointer, "from_malformed", f"the From field: {exc}")


def _missing(
    first: dict[str, Field], body: bytes, *, message_id: UUID, date: datetime, domain: str
) -> list[Field]:
    added: list[Field] = []
    if "date" not in first:
        added.append(Field("Date", f"Date: {format_datetime(date)}".encode("ascii")))
    if "message-id" not in first:
        value = message_id_of(message_id, domain)
        added.append(Field("Message-ID", f"Message-ID: {value}".encode("ascii")))
    if "mime-version" not in first:
        added.append(Field("MIME-Version", b"MIME-Version: 1.0"))
    if "content-type" not in first and not body.isascii() and _is_utf8(body):
        added.append(Field("Content-Type", b"Content-Type: text/plain; charset=utf-8"))
        if "content-transfer-encoding" not in first:
            added.append(Field("Content-Transfer-Encoding", b"Content-Transfer-Encoding: 8bit"))
    return added


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


# ── 8-bit text in header fields ───────────────────────────────────────────────────────────────


def _recoded(field: Field, *, pointer: str) -> Field:
    """Return the field with raw UTF-8 as encoded words, which need no SMTPUTF8."""
    if field.raw.isascii():
        return field
    try:
        text = field.value.decode("utf-8")
    except UnicodeDecodeError:
        refuse(pointer, "header_charset", f"the field {field.name} holds octets that are no UTF-8")
    if field.key in _STRUCTURED:
        return field
    if field.key not in _ADDRESSES:
        return Field(field.name, encode_text(field.name, text))
    try:
        return Field(field.name, encode_mailboxes(field.name, text))
    except AddressError:
        return field  # groups and the like: as they are
