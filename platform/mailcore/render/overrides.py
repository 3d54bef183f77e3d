"""An ISP's header overrides, applied to a message on its way out.

Gives    override_headers
Takes    RFC 5322 content with CRLF line ends; fields to add and names to delete
Raises   nothing: the compiler has refused names and values that are no header field
Follows  reference/mta-model.md §5 (overriding headers: add, delete); RFC 5322 §2.2 (folding)

A field that is added takes the place of those of the same name. Done before signing.
"""

from __future__ import annotations

from collections.abc import Sequence

from mailcore.render.content import split_content


def override_headers(
    content: bytes, *, add: Sequence[tuple[str, str]], delete: Sequence[str]
) -> bytes:
    """Return the content without the deleted fields and with the added ones, in front."""
    if not add and not delete:
        return content
    gone = {name.lower().encode("ascii") for name in (*delete, *(name for name, _ in add))}
    head, body = split_content(content)
    kept: list[bytes] = []
    is_kept = True
    for line in head.split(b"\r\n") if head else ():
        if line[:1] not in (b" ", b"\t"):
            is_kept = line.partition(b":")[0].strip().lower() not in gone
        if is_kept:
            kept.append(line)
    added = [f"{name}: {value}".encode() for name, value in add]
    return b"\r\n".join([*added, *kept, b"", body])
