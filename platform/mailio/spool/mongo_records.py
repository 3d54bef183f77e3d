"""Where content lies in MongoDB: documents of a segment, named so that a ContentRef finds them.

Gives    documents_of, keys_of, content_of; portions; segment_keys, end_of; CHUNK_BYTES,
         RECORD_BYTES, KEEP
Takes    ContentRefs as the ledger keeps them: four numbers, the same as of segment files
Raises   nothing

A segment is a number as for files, an offset counts what was written to it before. A document is
at most 16 MB by MongoDB's rule, so content is cut into chunks, each under the offset of its first
byte: a reference alone says which they are.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from mailcore.envelope import ContentRef
from mailio.spool.segments import RECORD_BYTES as RECORD_BYTES

CHUNK_BYTES = 8 * 2**20
# The server deletes what is older, as the last resort against content that nobody sweeps. Mail may
# be scheduled a year ahead (mailcore.submission) and then lives as long as its account says.
KEEP = timedelta(days=800)
_PORTION_KEYS = 1000
_PORTION_BYTES = 32 * 2**20


def _key(segment: int, offset: int) -> str:
    return f"{segment:016x}{offset:012x}"


def keys_of(ref: ContentRef, *, chunk_bytes: int = CHUNK_BYTES) -> list[str]:
    """Return the names of the documents that hold a content."""
    return [
        _key(ref.segment, ref.offset + first) for first in range(0, max(1, ref.length), chunk_bytes)
    ]


def segment_keys(segment: int) -> Mapping[str, Any]:
    """Return the condition that all documents of a segment meet, and no others."""
    first = f"{segment:016x}"
    return {"_id": {"$gte": first, "$lt": f"{first}g"}}


def end_of(key: str, chunk_bytes: int) -> int:
    """Return where the next record begins behind the document of this name and size."""
    return int(key[16:], 16) + chunk_bytes + RECORD_BYTES


def documents_of(
    ref: ContentRef,
    content: bytes,
    *,
    gone_at: datetime,
    life: int = 0,
    chunk_bytes: int = CHUNK_BYTES,
) -> list[dict[str, Any]]:
    """Return the documents of a content. `life` counts how often its segment was stored again."""
    return [
        {
            "_id": key,
            "data": content[number * chunk_bytes : (number + 1) * chunk_bytes],
            "size": min(chunk_bytes, len(content) - number * chunk_bytes),
            "life": life,
            "gone_at": gone_at,
        }
        for number, key in enumerate(keys_of(ref, chunk_bytes=chunk_bytes))
    ]


def content_of(
    ref: ContentRef, found: Mapping[str, object], *, chunk_bytes: int = CHUNK_BYTES
) -> bytes | None:
    """Put a content together from the data of documents; None for one that is not whole."""
    chunks = [found.get(key) for key in keys_of(ref, chunk_bytes=chunk_bytes)]
    whole = [chunk for chunk in chunks if isinstance(chunk, bytes)]
    if len(whole) < len(chunks):
        return None
    content = b"".join(whole)
    return content if len(content) == ref.length and zlib.crc32(content) == ref.crc else None


def portions(refs: Sequence[ContentRef]) -> Iterator[Sequence[ContentRef]]:
    """Cut into what is asked for at a time."""
    part: list[ContentRef] = []
    size_bytes = 0
    for ref in refs:
        if part and (len(part) == _PORTION_KEYS or size_bytes + ref.length > _PORTION_BYTES):
            yield part
            part, size_bytes = [], 0
        part.append(ref)
        size_bytes += ref.length
    if part:
        yield part
