"""What a client offers, from JSON to values.

Gives    Offer, OfferedRecipient; parse_offer; raw_offer for a bare message and its envelope
Raises   SubmissionRefused naming every field that is wrong, by pointer
Follows  RFC 5322 §2.2 (field names), RFC 2045 §5 (media types), RFC 4648 §4 (base64)

Only form is judged here; what the account may do is judged in plan.py.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from mailcore.address import ForwardPath
from mailcore.errors import AddressError
from mailcore.outcome import MailClass, TlsNeed
from mailcore.render import Attachment, Mailbox, Parts
from mailcore.render.content import read_mailbox
from mailcore.submission.reader import Reader, escape

MAX_RECIPIENTS = 65_535  # message tokens carry sixteen bits of it; the last means all
MAX_CUSTOM_BYTES = 2048
MAX_CAMPAIGN = 128
_MAX_ADDRESS = 1000
# As the policy of the path says; encrypted at least; encrypted, authenticated and so to the end.
TLS_WORDS = {each.name.lower(): each for each in TlsNeed}
_MAX_TEXT = 2**26
_COMMON = (
    "recipients", "sender", "campaign", "priority", "send_at", "expires_at", "custom",
    "tls",
)  # fmt: skip
_PARTS = (
    "from", "to", "cc", "bcc", "reply_to", "subject", "text", "html", "attachments", "headers",
)  # fmt: skip
FIELDS = frozenset((*_COMMON, *_PARTS, "raw"))
_ATTACHMENT = frozenset({"filename", "content_type", "content", "content_id", "inline"})
_FIELD_NAME = re.compile(r"[\x21-\x39\x3b-\x7e]{1,76}\Z")
_MEDIA_TYPE = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
    r"(?:; ?[A-Za-z0-9-]{1,30}="
    r"(?:[A-Za-z0-9!#$&^_.+-]{1,100}|\"[A-Za-z0-9 !#$&^_.+:/=-]{0,100}\")){0,5}\Z"
)
_CONTENT_ID = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.@-]{1,200}\Z")
_MESSAGE_ID = re.compile(r"<[!-;=?A-~]{1,200}@[!-;=?A-~]{1,200}>\Z")
_RESERVED = frozenset(
    {
        "bcc", "cc", "date", "dkim-signature", "from", "mime-version", "received", "reply-to",
        "resent-bcc", "return-path", "sender", "subject", "to",
    }
)  # fmt: skip
_RESERVED_PREFIXES = ("content-", "arc-", "x-postfleet-")
_ONCE = frozenset({"message-id", "in-reply-to", "references"})


@dataclass(frozen=True, slots=True)
class OfferedRecipient:
    """One recipient as written. `address` is None where `fault` says why it is none.

    `dsn` is the text of the reports it is asked for (`dsn.DsnOrder`); "" for none at all.
    """

    pointer: str
    text: str
    address: ForwardPath | None
    fault: str = ""
    dsn: str = ""


@dataclass(frozen=True, slots=True)
class Offer:
    """A message as offered: either `parts` or `raw`, and its envelope.

    `sender` is a number, a name, or None for the account's own. `pointer` is where the offer lies
    in the request. `trace` is what we put in front of it ourselves.
    """

    pointer: str
    parts: Parts | None
    raw: bytes | None
    recipients: tuple[OfferedRecipient, ...]
    sender: int | str | None = None
    campaign: str = ""
    mail_class: MailClass = MailClass.MAIN
    send_at: datetime | None = None
    expires_at: datetime | None = None
    custom: Mapping[str, str] = field(default_factory=dict)
    tls_need: TlsNeed = TlsNeed.POLICY
    trace: bytes = b""


def parse_offer(body: object, *, pointer: str = "") -> Offer:
    """Return what a JSON object offers."""
    reader = Reader(pointer)
    given = reader.mapping(body, "", FIELDS)
    parts, raw, recipients = None, None, list[OfferedRecipient]()
    if "raw" in given:
        for name in _PARTS:
            if name in given:
                reader.note(f"/{name}", "conflict", f"{name!r} cannot stand beside 'raw'")
        raw = _base64(reader, given["raw"], "/raw")
        if not given.get("recipients"):
            reader.note("/recipients", "required", "a raw message needs its recipients here")
    else:
        parts, recipients = _parts(reader, given)
    if "recipients" in given:
        recipients = _mailboxes(reader, given["recipients"], "/recipients")[1]
    offer = Offer(
        pointer=pointer,
        parts=parts,
        raw=raw,
        recipients=tuple(recipients),
        sender=_sender(reader, given.get("sender")),
        campaign=reader.text(given.get("campaign"), "/campaign", limit=MAX_CAMPAIGN).strip(),
        mail_class=_mail_class(reader, given.get("priority")),
        send_at=reader.time(given.get("send_at"), "/send_at"),
        expires_at=reader.time(given.get("expires_at"), "/expires_at"),
        custom=_custom(reader, given.get("custom")),
        tls_need=_tls_need(reader, given.get("tls")),
    )
    reader.finish()
    return offer


def raw_offer(raw: bytes, recipients: Sequence[str], **envelope: Any) -> Offer:
    """Return the offer of a bare message; `envelope` as in JSON."""
    return replace(parse_offer({"raw": "", "recipients": list(recipients), **envelope}), raw=raw)


# ── the envelope ──────────────────────────────────────────────────────────────────────────────


def _sender(reader: Reader, value: object) -> int | str | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, str):
        return reader.text(value, "/sender", limit=200).strip() or None
    reader.note("/sender", "type", "the number or the name of a sender is needed here")
    return None


def _mail_class(reader: Reader, value: object) -> MailClass:
    if value is True or value == MailClass.PRIORITY.word:
        return MailClass.PRIORITY
    if not (value is None or value is False or value == MailClass.MAIN.word):
        reader.note("/priority", "value", "true, false, 'priority' or 'main' is needed here")
    return MailClass.MAIN


def _tls_need(reader: Reader, value: object) -> TlsNeed:
    if value is None:
        return TlsNeed.POLICY
    found = TLS_WORDS.get(value) if isinstance(value, str) else None
    if found is None:
        reader.note("/tls", "value", f"one of {', '.join(TLS_WORDS)} is needed here")
    return found or TlsNeed.POLICY


def _custom(reader: Reader, value: object) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        reader.note("/custom", "type", "an object is needed here")
        return {}
    result = {
        reader.text(name, "/custom", limit=200): reader.text(
            item, f"/custom/{escape(name)}", limit=MAX_CUSTOM_BYTES, is_line=False
        )
        for name, item in value.items()
    }
    if len(json.dumps(result, ensure_ascii=False).encode()) > MAX_CUSTOM_BYTES:
        reader.note("/custom", "too_long", f"custom data takes at most {MAX_CUSTOM_BYTES} octets")
    return result


def _mailboxes(
    reader: Reader, value: object, path: str
) -> tuple[list[Mailbox], list[OfferedRecipient]]:
    """Return the sound mailboxes for the header, and every recipient for the envelope."""
    entries = [value] if isinstance(value, (str, dict)) else value
    shown: list[Mailbox] = []
    recipients: list[OfferedRecipient] = []
    for index, entry in enumerate(reader.sequence(entries, path, limit=MAX_RECIPIENTS)):
        mailbox, recipient = _mailbox(reader, entry, f"{path}/{index}")
        recipients.append(recipient)
        if mailbox is not None:
            shown.append(mailbox)
    return shown, recipients


def _mailbox(reader: Reader, entry: object, path: str) -> tuple[Mailbox | None, OfferedRecipient]:
    """Read `"Name <address>"`, `"address"` or `{"address": …, "name": …}`."""
    name = ""
    if isinstance(entry, dict):
        reader.mapping(entry, path, ("address", "name"))
        name = reader.text(entry.get("name"), f"{path}/name", limit=256).strip()
        text = reader.text(entry.get("address"), f"{path}/address", limit=_MAX_ADDRESS)
        if "address" not in entry:
            reader.note(f"{path}/address", "required", "the address is missing")
    else:
        text = reader.text(entry, path, limit=_MAX_ADDRESS)
        if entry is None:
            reader.note(path, "type", "an address is needed here")
    pointer = reader.pointer + path
    try:
        if isinstance(entry, dict):
            address = ForwardPath.parse(text)
        else:
            name, address = read_mailbox(text)
    except AddressError as exc:
        return None, OfferedRecipient(pointer, text[:320], None, str(exc))
    return Mailbox(name, address), OfferedRecipient(pointer, str(address), address)


# ── parts ─────────────────────────────────────────────────────────────────────────────────────


def _parts(reader: Reader, given: Mapping[str, Any]) -> tuple[Parts | None, list[OfferedRecipient]]:
    boxes = {
        name: _mailboxes(reader, given.get(name), f"/{name}")
        for name in ("to", "cc", "bcc", "reply_to")
    }
    for recipient in boxes["reply_to"][1]:
        if recipient.address is None:
            path = recipient.pointer.removeprefix(reader.pointer)
            reader.note(path, "malformed_address", recipient.fault)
    recipients = [r for name in ("to", "cc", "bcc") for r in boxes[name][1]]
    if not recipients and not given.get("recipients"):
        reader.note("/to", "required", "a message needs recipients: to, cc, bcc or recipients")
    headers, message_id_header = _headers(reader, given.get("headers"))
    text, html = (
        reader.text(given[name], f"/{name}", limit=_MAX_TEXT, is_line=False)
        if given.get(name) is not None
        else None
        for name in ("text", "html")
    )
    attachments = tuple(
        _attachment(reader, entry, f"/attachments/{index}")
        for index, entry in enumerate(
            reader.sequence(given.get("attachments"), "/attachments", limit=100)
        )
    )
    if text is None and html is None and not attachments:
        reader.note("/text", "required", "a message needs text, html, an attachment, or raw")
    sender = _from(reader, given.get("from"))
    if sender is None:
        return None, recipients
    parts = Parts(
        sender=sender,
        to=tuple(boxes["to"][0]),
        cc=tuple(boxes["cc"][0]),
        reply_to=tuple(boxes["reply_to"][0]),
        subject=reader.text(given.get("subject"), "/subject", limit=2000),
        text=text,
        html=html,
        attachments=attachments,
        headers=headers,
        message_id_header=message_id_header,
    )
    return parts, recipients


def _from(reader: Reader, value: object) -> Mailbox | None:
    if value is None:
        reader.note("/from", "required", "a message needs its From address")
        return None
    before = len(reader.problems)
    mailbox, recipient = _mailbox(reader, value, "/from")
    if mailbox is None and len(reader.problems) == before:
        reader.note("/from", "malformed_address", recipient.fault)
    return mailbox


def _headers(reader: Reader, value: object) -> tuple[tuple[tuple[str, str], ...], str]:
    """Return the client's own fields, and the Message-ID if it gave one."""
    if value is None:
        return (), ""
    if not isinstance(value, dict) or len(value) > 100:
        reader.note("/headers", "type", "an object of at most 100 fields is needed here")
        return (), ""
    fields: list[tuple[str, str]] = []
    message_id_header = ""
    for name, given in value.items():
        path = f"/headers/{escape(name.encode('ascii', 'backslashreplace').decode()[:80])}"
        key = name.lower()
        values = given if isinstance(given, list) else [given]
        if not _FIELD_NAME.match(name):
            reader.note(path, "header_name", "this is no name of a header field")
        elif key in _RESERVED or key.startswith(_RESERVED_PREFIXES):
            reader.note(path, "reserved_header", f"the field {name} cannot be set here")
        elif len(values) > (1 if key in _ONCE else 20):
            reader.note(path, "too_many", f"the field {name} stands too often")
        else:
            texts = [reader.text(v, path, limit=20_000).strip() for v in values]
            if key == "message-id":
                message_id_header = texts[0] if texts else ""
                if not _MESSAGE_ID.match(message_id_header):
                    reader.note(path, "message_id", "a Message-ID looks like <left@right>")
            else:
                fields += [(name, text) for text in texts]
    return tuple(fields), message_id_header


def _attachment(reader: Reader, entry: object, path: str) -> Attachment:
    given = reader.mapping(entry, path, _ATTACHMENT)
    kind = reader.text(given.get("content_type"), f"{path}/content_type", limit=400)
    kind = kind or "application/octet-stream"
    if not _MEDIA_TYPE.match(kind):
        reader.note(f"{path}/content_type", "media_type", "a type such as image/png is needed")
    elif kind.lower().startswith(("multipart/", "message/")):
        reader.note(f"{path}/content_type", "media_type", f"{kind} cannot be attached")
    if "content" not in given and isinstance(entry, dict):
        reader.note(f"{path}/content", "required", "the content is missing")
    content_id = reader.text(given.get("content_id"), f"{path}/content_id", limit=202)
    content_id = content_id.removeprefix("<").removesuffix(">")
    if content_id and not _CONTENT_ID.match(content_id):
        reader.note(f"{path}/content_id", "content_id", "this is no Content-ID")
    filename = reader.text(given.get("filename"), f"{path}/filename", limit=200).strip()
    return Attachment(
        filename=filename,
        content_type=kind,
        content=_base64(reader, given.get("content", ""), f"{path}/content"),
        content_id=content_id,
        is_inline=reader.flag(given.get("inline"), f"{path}/inline"),
    )


def _base64(reader: Reader, value: object, path: str) -> bytes:
    if not isinstance(value, str):
        reader.note(path, "type", "base64 in a string is needed here")
        return b""
    try:
        octets = value.encode("ascii")
        if b"\n" in octets or b"\r" in octets:
            octets = octets.translate(None, b"\r\n")
        return base64.b64decode(octets, validate=True)
    except (UnicodeEncodeError, binascii.Error) as exc:
        reader.note(path, "base64", f"this is no base64: {_reason(exc)}")
        return b""


def _reason(exc: Exception) -> str:
    return str(exc) if isinstance(exc, binascii.Error) else "it holds characters beyond ASCII"
