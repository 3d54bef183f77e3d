"""Content as it comes: DATA up to its dot, BDAT chunk by chunk, and what is answered to it.

Gives    read_content, Arrived
Takes    the transaction, what the client sent
Raises   nothing
Follows  RFC 5321 §4.1.1.4 (DATA), RFC 3030 §2 (BDAT)
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mailcore.reception.lines import Lines
from mailcore.reception.transaction import Chunk, Transaction
from mailcore.reply import SmtpReply


@dataclass(frozen=True, slots=True)
class Arrived:
    """A reply to give, or without one a whole message. `is_fatal`: then close, for what
    comes next may be read in two ways, or will never end."""

    reply: SmtpReply | None = None
    content: bytes = field(default=b"", repr=False)
    is_fatal: bool = False


def read_content(transaction: Transaction, lines: Lines) -> Arrived | None:
    """Read on; None: more has to come."""
    chunk = transaction.chunk
    return (
        _read_data(transaction, lines) if chunk is None else _read_chunk(chunk, transaction, lines)
    )


def _read_data(transaction: Transaction, lines: Lines) -> Arrived | None:
    if not lines:
        return None
    content = transaction.content
    octets = lines.take()
    count = content.feed(octets)
    if content.fault:
        # An answer in the middle: a client that ends its message otherwise would wait for ever.
        return Arrived(_misread(content.fault, "; closing"), is_fatal=True)
    if content.length > transaction.endless_bytes:
        return Arrived(transaction.too_large, is_fatal=True)
    if count < 0:
        return None
    lines.add(octets[count:])
    return Arrived(content=content.finish_data())


def _read_chunk(chunk: Chunk, transaction: Transaction, lines: Lines) -> Arrived | None:
    if not transaction.add_to_chunk(lines.take(chunk.left)):
        return None
    refusal = transaction.end_chunk()
    if refusal is None and chunk.is_last:
        content = transaction.content.finish_chunks()
        fault = transaction.content.fault
        if not fault:
            return Arrived(content=content)
        refusal = _misread(fault, "")
    if refusal is None:
        return Arrived(SmtpReply.local(250, "2.0.0", f"{chunk.count} octets received"))
    if chunk.is_last:
        transaction.reset()
    return Arrived(refusal)


def _misread(fault: str, then: str) -> SmtpReply:
    text = f"{fault} alone in the message: lines end in CRLF{then}"
    return SmtpReply.local(554, "5.6.0", text)
