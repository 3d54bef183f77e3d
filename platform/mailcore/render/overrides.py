"""An ISP's header overrides, applied to a message on its way out.

Gives    override_headers, PROTECTED, is_protected
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

from mailcore.render.content import encode_text, split_content

# Without them, or with two of them, a message is none, is another's, or cannot be read.
PROTECTED = frozenset(
    {
        "bcc", "content-transfer-encoding", "content-type", "date", "dkim-signature", "from",
        "message-id", "mime-version", "received", "return-path",
    }
)  # fmt: skip
_OWN_PREFIX = "x-postfleet-"
_NAME = re.compile(r"[!-9;-~]{1,76}\Z")
_BREAKS = re.compile(r"[\r\n\0]+")


def is_protected(name: str) -> bool:
    """Whether a field of this name is neither added nor deleted for an ISP."""
    return name.lower() in PROTECTED or name.lower().startswith(_OWN_PREFIX)


def override_headers(
    content: bytes, *, add: Sequence[tuple[str, str]], delete: Sequence[str]
) -> bytes:
    """Return the content without the deleted fields and with the added ones, in front."""
    added = [(name, value) for name, value in add if _may_change(name)]
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
    fields = [encode_text(name, _BREAKS.sub(" ", value)) for name, value in added]
    return b"\r\n".join([*fields, *kept, b"", body])


def _may_change(name: str) -> bool:
    return _NAME.match(name) is not None and not is_protected(name)
