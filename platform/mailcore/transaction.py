"""The SMTP dialogue as a state machine: replies in, commands out.

Gives    WireMessage (what one transaction carries), RecipientReply (what it came to)
Follows  RFC 5321 §3.3, §4.1-4.2
"""

from __future__ import annotations

from dataclasses import dataclass

from mailcore.outcome import Scope
from mailcore.reply import SmtpReply


@dataclass(frozen=True, slots=True)
class WireMessage:
    """What one transaction carries. `content` is CRLF bytes, not yet dot-stuffed."""

    reverse_path: str
    forward_paths: tuple[str, ...]
    content: bytes
    needs_8bit: bool = False
    needs_smtputf8: bool = False


@dataclass(frozen=True, slots=True)
class RecipientReply:
    """The reply that decided over one forward-path, and the step it answered."""

    reply: SmtpReply
    stage: str
    scope: Scope
