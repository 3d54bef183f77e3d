"""An ISP's header overrides, applied to a message on its way out.

Gives    override_headers, PROTECTED, is_protected, can_be_written
Takes    RFC 5322 content with CRLF line ends; fields to add and names to delete
Raises   nothing: names and values were checked where they were entered, and what could break a
         message all the same has no effect here
Follows  reference/mta-model.md §5 (overriding headers: add, delete); RFC 5322 §2.2 (folding)

A field that is added takes the place of those of the same name. Done before signing, and before
our token is put in front.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mailcore.errors import AddressError
from mailcore.render.content import encode_mailboxes, encode_text, split_content

# Without them, or with two of them, a message is none, is another's, or cannot be read.
PROTECTED = frozenset(
    {
        "bcc", "content-transfer-encoding", "content-type", "date", "dkim-signature", "from",
        "message-id", "mime-version", "received", "return-path",
    }
)  # fmt: skip
_ADDRESSES = frozenset(
    {"cc", "disposition-notification-to", "errors-to", "reply-to", "sender", "to"}
)
# Their values have a grammar that an encoded word must not stand in.
_STRUCTURED = frozenset(
    {
        "auto-submitted", "content-disposition", "content-id", "feedback-id", "in-reply-to",
        "list-archive", "list-help", "list-id", "list-owner", "list-post", "list-subscribe",
        "list-unsubscribe", "list-unsubscribe-post", "references",
    }
)  # fmt: skip
_OWN_PREFIX = "x-postfleet-"
_NAME = re.compile(r"[!-9;-~]{1,76}\Z")
_BREAKS = re.compile(r"[\r\n\0]+")


def is_protected(name: str) -> bool:
    """Whether a field of this name is neither added nor deleted for an ISP."""
    return name.lower() in PROTECTED or name.lower().startswith(_OWN_PREFIX)


def can_be_written(name: str, value: str) -> bool:
    """Whether there is a form of this field that every server and reader understands."""
    return _field(name, value) is not None


def override_headers(
    content: bytes, *, add: Sequence[tuple[str, str]], delete: Sequence[str]
) -> bytes:
    """Return the content without the deleted fields and with the added ones, in front."""
    written = ((name, _field(name, value)) for name, value in add if _may_change(name))
    added = [(name, field) for name, field in written if field is not None]
    gone = {name.lower().encode("ascii") for name in delete if _may_change(name)}
    gone.update(name.lower().encode("ascii") for name, _ in added)
    if not gone:
        return content
    head, body = split_content(content)
    kept: list[bytes] = []
    is_kept = True
    for line in head.split(b"\r\n") if head else ():
        if line[:1] not in (b" ", b"\t"):
            is_kept = line.partition(b":")[0].strip().lower() not in gone
        if is_kept:
            kept.append(line)
    return b"\r\n".join([*(field for _, field in added), *kept, b"", body])


def _field(name: str, value: str) -> bytes | None:
    text, key = _BREAKS.sub(" ", value), name.lower()
    if text.isascii() or key not in _ADDRESSES | _STRUCTURED:
        return encode_text(name, text)
    if key in _STRUCTURED:
        return None
    try:
        field = encode_mailboxes(name, text)
    except AddressError:
        return None
    return field if field.isascii() else None


def _may_change(name: str) -> bool:
    return _NAME.match(name) is not None and not is_protected(name)
