"""Replies as they go over the wire.

Gives    reply_octets (SmtpReply -> bytes), line (of one line), ehlo_octets, the usual ones
Follows  RFC 5321 §4.2 and §4.5.3.1.5 (512 octets a line), RFC 2034 (enhanced status)
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mailcore.reply import SmtpReply

_UNPRINTABLE = re.compile(r"[^\x20-\x7e]+")
_MAX_TEXT = 400

SENDER_OK = b"250 2.1.0 sender ok\r\n"
RECIPIENT_OK = b"250 2.1.5 recipient ok\r\n"
GO_AHEAD = b"354 end with <CRLF>.<CRLF>\r\n"
OK = b"250 2.0.0 ok\r\n"
HELP = b"214 2.0.0 EHLO HELO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP VRFY QUIT\r\n"


def line(code: int, enhanced: str, text: str) -> bytes:
    """Return a reply of one line. Text that echoes a client is cut and cleaned."""
    shown = _UNPRINTABLE.sub("?", text)[:_MAX_TEXT]
    return f"{code} {enhanced} {shown}\r\n".encode("ascii")


def reply_octets(reply: SmtpReply) -> bytes:
    """Return a reply; each of its lines carries the code and the enhanced status."""
    status = f"{reply.enhanced} " if reply.enhanced is not None else ""
    texts = [_UNPRINTABLE.sub("?", text)[:_MAX_TEXT] for text in reply.lines] or [""]
    last = len(texts) - 1
    return "".join(
        f"{reply.code}{' ' if at == last else '-'}{status}{text}\r\n"
        for at, text in enumerate(texts)
    ).encode("ascii")


def ehlo_octets(words: Sequence[str]) -> bytes:
    """Return the answer to EHLO: our name and one extension a line."""
    rest = "".join(f"250-{word}\r\n" for word in words[:-1])
    return f"{rest}250 {words[-1]}\r\n".encode("ascii")
