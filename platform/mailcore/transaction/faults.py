"""What an answer means that does not fit the command it should answer.

Gives    ASTRAY, garbled (a Failed step), chunk_refusal, is_about_address, is_misplaced,
         is_proof; left_over (who has no reply when the session ends)
Raises   nothing
Follows  RFC 5321 §4.2.3 (codes); RFC 3463 §3.2; RFC 3030 §2
"""

from __future__ import annotations

from collections.abc import Iterable

from mailcore.outcome import Scope
from mailcore.reply import SmtpReply
from mailcore.transaction.message import Stage, Transaction
from mailcore.transaction.steps import Failed, FaultKind

# Codes that answer other commands: such a yes is none to MAIL, RCPT or the content; nor is an
# invitation to go on.
ASTRAY = frozenset({211, 214, 220, 221, 235, *range(300, 400)})
_NOT_UNDERSTOOD = frozenset({500, 501, 502, 503, 504})
# At RCPT 501 and 504 may be about the address and its parameters.
_NO_SUCH_COMMAND = frozenset({500, 502})
_NOT_NOW = _NO_SUCH_COMMAND | {503}


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


def is_misplaced(reply: SmtpReply, stage: Stage, transaction: Transaction) -> bool:
    """Whether a refusal of RCPT or DATA shows that the server is elsewhere in the dialogue.

    It took the MAIL, or a recipient, and yet speaks of the command, or of an address.
    """
    if stage is Stage.RCPT:
        return reply.code in _NOT_NOW and transaction.is_mail_accepted
    if transaction.is_decided:
        return False
    is_of_another = len(transaction.offered) > 1 and is_about_address(reply)
    return is_of_another or reply.code in _NOT_UNDERSTOOD


def is_proof(reply: SmtpReply) -> bool:
    """Whether this answers a RSET, so that every reply before it was for its own command."""
    if reply.code in _NO_SUCH_COMMAND:
        return True
    return reply.is_positive and reply.code not in ASTRAY and not is_about_address(reply)


def left_over(
    content: Transaction | None,
    expected: Iterable[tuple[Stage, Transaction | None, int]],
    queue: Iterable[Transaction],
) -> list[Transaction]:
    """Return the transactions that a session leaves undecided, each with its stage."""
    left: dict[int, Transaction] = {}
    if content is not None:
        content.stage = Stage.DATA
        left[id(content)] = content
    for stage, transaction, _ in expected:
        if transaction is not None and id(transaction) not in left:
            is_withheld = stage is Stage.DOT and not transaction.is_dot_sent
            is_refused = stage is Stage.RSET
            transaction.stage = Stage.DATA if is_withheld else Stage.RCPT if is_refused else stage
            left[id(transaction)] = transaction
    left |= {id(transaction): transaction for transaction in queue}
    return list(left.values())
