"""What an answer means that does not fit the command it should answer.

Gives    ASTRAY, garbled (a Failed step), chunk_refusal, is_about_address
Raises   nothing
Follows  RFC 5321 §4.2.3 (codes); RFC 3463 §3.2; RFC 3030 §2
"""

from __future__ import annotations

from mailcore.outcome import Scope
from mailcore.reply import SmtpReply
from mailcore.transaction.message import Stage
from mailcore.transaction.steps import Failed, FaultKind

# Codes that answer other commands: such a yes is none to MAIL, RCPT or the content; nor is an
# invitation to go on.
ASTRAY = frozenset({211, 214, 220, 221, 235, *range(300, 400)})
_NOT_UNDERSTOOD = frozenset({500, 501, 502, 503, 504})


def garbled(reason: str, stage: Stage | None, *, is_ready: bool) -> Failed:
    """Return the end of a session that lost its sense; it defers, whatever was said."""
    reply = SmtpReply.local(451, "4.5.0", f"protocol error: {reason}")
    told = (stage or Stage.MAIL).told
    scope = Scope.SESSION if is_ready else Scope.HOST
    return Failed(FaultKind.BROKEN, reply, told, scope)


def is_about_address(reply: SmtpReply) -> bool:
    """Whether a reply belongs to MAIL or RCPT by its status: X.1.Z is about an address."""
    return reply.enhanced is not None and reply.enhanced.subject == 1


def chunk_refusal(reply: SmtpReply) -> SmtpReply | None:
    """Return what is to be told of a server that offers BDAT and does not take the command.

    That is no word on the message, so it is an answer of our own, and defers.
    """
    if reply.code not in _NOT_UNDERSTOOD:
        return None
    text = f"the server offers BDAT and does not take it: {reply}"
    return SmtpReply.local(451, "4.5.1", text)
