"""One SMTP session, from the greeting to its end: replies in, steps out.

Gives    Dialogue
Takes    bytes of the server, transactions, the end of the TLS handshake
Raises   nothing: a garbled answer is a Failed step, a server's verdict a RecipientReply
Follows  RFC 5321 §3.3, §4.1, §4.3; RFC 2920 (PIPELINING), RFC 3030 (CHUNKING)

Whose reply is whose is decided by one queue: each command that is written adds what its answer
will be for, each reply takes the oldest. So a chain of transactions cannot mix them up.
A server that loses or doubles a reply can: where that shows, or cannot be ruled out, no refusal
counts, since it may have been another recipient's.

Content goes as one chunk where the server offers CHUNKING, and as DATA elsewhere; either way
only once somebody was accepted. Why, and when not: docs/decisions/0012.
"""

from __future__ import annotations

from collections import deque

from mailcore.outcome import Scope
from mailcore.reply import SmtpReply
from mailcore.transaction.auth import Credentials
from mailcore.transaction.commands import leave_out_excess, refusal_of
from mailcore.transaction.faults import (
    ASTRAY,
    chunk_refusal,
    garbled,
    is_about_address,
    is_misplaced,
    is_proof,
    left_over,
)
from mailcore.transaction.message import Stage, Transaction
from mailcore.transaction.opening import Move, Opening, Say
from mailcore.transaction.replies import ReplyReader
from mailcore.transaction.replies import reply_of as _reply
from mailcore.transaction.steps import (
    Done,
    Failed,
    FaultKind,
    StartTls,
    Step,
    Write,
)
from mailcore.transaction.turns import Turns

NO_LIMIT = 1 << 60
# Looked at for every reply: a name of the module costs less than a member of an enum.
_MAIL, _RCPT, _DATA, _DOT = Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.DOT
_OPENING = frozenset({Stage.BANNER, Stage.EHLO, Stage.HELO, Stage.STARTTLS, Stage.AUTH})


class Dialogue(Turns):
    """One session, from the greeting to its end. Every method returns the steps to take."""

    __slots__ = (
        "_chunks",
        "_goes_on",
        "_is_stale",
        "_opening",
        "_reader",
        "is_chunking_broken",
        "is_in_doubt",
        "reply_count",
    )

    def __init__(
        self,
        ehlo_name: str,
        *,
        wants_tls: bool,
        requires_tls: bool = False,
        credentials: Credentials | None = None,
        allows_chunking: bool = True,
    ) -> None:
        super().__init__()
        self._opening = Opening(
            ehlo_name, wants_tls=wants_tls, requires_tls=requires_tls, credentials=credentials
        )
        self._reader = ReplyReader()
        self._expected.append((Stage.BANNER, None, 0))
        # A RSET was refused: the server may have recipients of a transaction before.
        self._is_stale = False
        self._chunks = allows_chunking
        # Whether a positive reply in the envelope has a command of ours that follows it.
        self._goes_on = True
        self.is_chunking_broken = False
        # Whether the replies so far may have been taken for the wrong commands.
        self.is_in_doubt = False
        self.reply_count = 0

    @property
    def awaits(self) -> Stage | None:
        """What the next reply will answer; None when none is due."""
        return self._expected[0][0] if self._expected else None

    def receive(self, data: bytes) -> list[Step]:
        """Take bytes of the server."""
        steps: list[Step] = []
        reader, due = self._reader, len(self._expected)
        for code, lines in reader.feed(data):
            if self.is_over or reader is not self._reader:
                # What came in clear behind the answer to STARTTLS is nobody's (RFC 3207 §6).
                return steps
            self.reply_count += 1
            if due <= 0 and self._expected and self.is_ready:
                self._garbled(f"an answer of {code} before its command", self.awaits, steps)
                return steps
            due -= 1
            self._take(code, self._opening.quotable(code, lines), steps)
        if reader.fault and reader is self._reader and not self.is_over:
            self._garbled(self._opening.quotable_fault(reader.fault), self.awaits, steps)
        return steps

    def tls_established(self) -> list[Step]:
        """The handshake succeeded: forget what was said in clear and greet again. Where TLS came
        before the greeting, await that."""
        steps: list[Step] = []
        if self.awaits is Stage.BANNER:
            self._opening.is_tls = True
            return steps
        self._move(self._opening.secured(), steps)
        return steps

    def begin(self, transaction: Transaction) -> list[Step]:
        """Start a transaction; the content of the one before must have been sent."""
        steps: list[Step] = []
        extensions = self.extensions
        refusal = refusal_of(transaction.message, extensions, is_tls=self._opening.is_tls)
        if refusal is not None:
            transaction.decide(refusal, Stage.MAIL, Scope.MESSAGE)
            steps.append(Done(transaction))
            return steps
        self._left -= 1
        transaction.is_chunked = self._chunks
        if extensions.rcpt_max or extensions.rcpt_domain_max:
            leave_out_excess(transaction, extensions)
        if extensions.pipelining:
            self._write_group(transaction, steps)
        else:
            self._queue.append(transaction)
            self._next_in_turn(steps)
        return steps

    def dot_sent(self, transaction: Transaction) -> None:
        """The content has been written to its end."""
        transaction.is_dot_sent = True
        self._content = None
        self._expected.append((_DOT, transaction, 0))

    def break_off(self) -> list[Transaction]:
        """End the session; return the transactions left undecided, each with its stage."""
        self.is_over = True
        self.is_ready = False
        left = left_over(self._content, self._expected, self._queue)
        self._expected.clear()
        self._queue.clear()
        self._content = None
        if self.is_in_doubt:
            for transaction in left:
                if not transaction.is_in_step:
                    transaction.doubt()
        return left

    # -- replies

    def _take(self, code: int, lines: tuple[bytes, ...], steps: list[Step]) -> None:
        if not self._expected:
            self._unsolicited(code, lines, steps)
            return
        stage, transaction, index = self._expected.popleft()
        if code == 250 and transaction is not None and (stage is _RCPT or stage is _MAIL):
            if stage is _MAIL:
                transaction.is_mail_accepted = True
            else:
                transaction.has_taker = True
            if self._goes_on:
                self._go_on(transaction, stage, index, steps)
        elif code == 421:
            self._closing(_reply(code, lines), stage, transaction, steps)
        elif transaction is None:
            self._take_for_session(stage, code, lines, steps)
        elif stage is _DATA and (code == 354 or code >= 400):
            self._take_data(transaction, code, lines, steps)
        elif stage is _DATA or (code != 250 and code in ASTRAY):
            self._expected.appendleft((stage, transaction, index))
            self._garbled(f"an answer of {code} to {stage.value.upper()}", stage, steps)
        elif stage is Stage.RSET:
            self._take_proof(transaction, _reply(code, lines), steps)
        elif stage is _DOT:
            reply = _reply(code, lines)
            if not transaction.is_chunked or self._is_chunk_answered(transaction, reply, steps):
                transaction.decide(reply, _DOT, Scope.MESSAGE)
                self._done(transaction, steps)
        else:
            if code >= 400:
                reply = _reply(code, lines)
                if stage is _RCPT and is_misplaced(reply, stage, transaction):
                    self._expected.appendleft((stage, transaction, index))
                    self._garbled(f"an answer of {reply} to RCPT", stage, steps)
                    return
                transaction.refuse(stage, index, reply)
            else:
                transaction.is_mail_accepted |= stage is _MAIL
                transaction.has_taker |= stage is _RCPT
            if self._goes_on:
                self._go_on(transaction, stage, index, steps)

    def _take_data(
        self, transaction: Transaction, code: int, lines: tuple[bytes, ...], steps: list[Step]
    ) -> None:
        if code == 354:
            transaction.is_in_step = True
            if not transaction.is_decided:
                self._send_content(transaction, steps)
            elif transaction.has_taker or self._is_stale:
                # Whoever the server has there must not get an empty message.
                steps.append(Done(transaction))
                self._garbled("an answer of 354 to DATA for nobody", _DATA, steps)
            else:
                # RFC 2920 §3.1: nobody is left, so the content is empty and its reply nobody's.
                self._command(Stage.LONE_DOT, Write(b".\r\n"), steps)
                self._done(transaction, steps)
            return
        reply = _reply(code, lines)
        if is_misplaced(reply, _DATA, transaction):
            self._expected.appendleft((_DATA, transaction, 0))
            self._garbled(f"an answer of {reply} to DATA", _DATA, steps)
        else:
            transaction.decide(reply, _DATA, Scope.MESSAGE)
            self._nothing_goes(transaction, steps)

    def _take_proof(self, transaction: Transaction, reply: SmtpReply, steps: list[Step]) -> None:
        if is_proof(reply):
            self._is_stale = not reply.is_positive
            self._done(transaction, steps)
        else:
            self._expected.appendleft((Stage.RSET, transaction, 0))
            self._garbled(f"an answer of {reply} to RSET", _RCPT, steps)

    def _is_chunk_answered(
        self, transaction: Transaction, reply: SmtpReply, steps: list[Step]
    ) -> bool:
        """Whether this answers the chunk, and says something about the message.

        No 354 has shown that we are in step; but the status of an answer to MAIL or RCPT is
        about an address, and that of an answer to all of the content is not.
        """
        is_for_all = reply.is_positive or len(transaction.offered) > 1
        if is_for_all and is_about_address(reply):
            self.is_chunking_broken = True
            self._expected.appendleft((_DOT, transaction, 0))
            self._garbled(f"an answer of {reply} to a chunk", _DOT, steps)
            return False
        return reply.is_positive or not self._is_chunk_refused(transaction, reply, _DOT, steps)

    def _is_chunk_refused(
        self, transaction: Transaction, reply: SmtpReply, stage: Stage, steps: list[Step]
    ) -> bool:
        """A chunk was answered no: did the server mean the message, or the command?"""
        refusal = chunk_refusal(reply)
        if refusal is not None:
            # What follows lost its place among the commands as well.
            self.is_chunking_broken = True
            transaction.decide(refusal, stage, Scope.SESSION)
            steps.append(Done(transaction))
            self._fail(Failed(FaultKind.BROKEN, refusal, stage.value, Scope.SESSION), steps)
            return True
        # RFC 3030 §2 leaves open whether the transaction is over. If the next MAIL is on its way
        # it may be refused as a second one, and is said again behind a RSET.
        behind = self._expected[0][1] if self._expected else None
        if behind is not None:
            behind.may_restart = True
        else:
            self._needs_rset = True
        return False

    def _take_for_session(
        self, stage: Stage, code: int, lines: tuple[bytes, ...], steps: list[Step]
    ) -> None:
        if self.is_ready:
            if stage is Stage.RSET:
                self._is_stale = code // 100 != 2
            # RSET and the lone dot: whatever was said, it is nobody's verdict.
            self._next_in_turn(steps)
        else:
            self._move(self._opening.take(stage, code, lines), steps)

    def _move(self, move: Move, steps: list[Step]) -> None:
        """Take over what the opening wants."""
        self.extensions = offered = self._opening.extensions
        if isinstance(move, Say):
            self._command(move.stage, move.step, steps)
        elif isinstance(move, Failed):
            self._fail(move, steps)
        elif isinstance(move, StartTls):
            self._reader = ReplyReader()
            steps.append(move)
        else:
            self.is_ready = True
            self._left = offered.mail_max or NO_LIMIT
            self._chunks = self._chunks and offered.chunking and offered.enhanced_codes
            self._goes_on = self._chunks or not offered.pipelining
            steps.append(move)

    # -- the end of a session

    def _closing(
        self, reply: SmtpReply, stage: Stage, transaction: Transaction | None, steps: list[Step]
    ) -> None:
        """421: the server goes away. It defers also those it had accepted before."""
        if transaction is not None:
            transaction.decide(reply, stage, Scope.SESSION)
            self._expected = deque(e for e in self._expected if e[1] is not transaction)
            steps.append(Done(transaction))
        scope = Scope.SESSION if self.is_ready else Scope.HOST
        kind = FaultKind.BROKEN if self.is_ready else FaultKind.REFUSED
        self._fail(Failed(kind, reply, "mail" if self.is_ready else stage.told, scope), steps)

    def _unsolicited(self, code: int, lines: tuple[bytes, ...], steps: list[Step]) -> None:
        transaction, reply = self._content, _reply(code, lines)
        if transaction is not None and code >= 400:
            # Refused while the content is under way: without its end nothing was accepted.
            if transaction.is_chunked:
                if len(transaction.offered) > 1 and is_about_address(reply):
                    self._garbled(f"an answer of {reply} to a chunk", _DATA, steps)
                    return
                self._content = None
                if self._is_chunk_refused(transaction, reply, _DATA, steps):
                    return
            self._content = None
            scope = Scope.SESSION if code == 421 else Scope.MESSAGE
            transaction.decide(reply, _DATA, scope)
            steps.append(Done(transaction))
        if code == 421 or transaction is not None:
            self._fail(Failed(FaultKind.BROKEN, reply, _DATA.value, Scope.SESSION), steps)
        else:
            self._garbled(f"an answer of {code} to no command", None, steps)

    def _garbled(self, reason: str, stage: Stage | None, steps: list[Step]) -> None:
        self.is_in_doubt = True
        self._fail(garbled(reason, stage, is_ready=self.is_ready), steps)

    def _fail(self, failed: Failed, steps: list[Step]) -> None:
        self.is_over = True
        self.is_ready = False
        steps.append(failed)
