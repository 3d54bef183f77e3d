"""One SMTP session, from the greeting to its end: replies in, steps out.

Gives    Dialogue
Takes    bytes of the server, transactions, the end of the TLS handshake
Raises   nothing: a garbled answer is a Failed step, a server's verdict a RecipientReply
Follows  RFC 5321 §3.3, §4.1, §4.3; RFC 2920 (PIPELINING), RFC 1870 (SIZE), RFC 6152 (8BITMIME),
         RFC 6531 (SMTPUTF8), RFC 3207 (STARTTLS)

Whose reply is whose is decided by one queue: each command that is written adds what its answer
will be for, each reply takes the oldest. So a chain of transactions cannot mix them up.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from mailcore.outcome import Scope
from mailcore.reply import EnhancedStatus, SmtpReply
from mailcore.transaction.replies import ReplyReader
from mailcore.transaction.replies import reply_of as _reply
from mailcore.transaction.steps import (
    Done,
    Extensions,
    Failed,
    FaultKind,
    Ready,
    RecipientReply,
    SendContent,
    Stage,
    StartTls,
    Step,
    Transaction,
    WireMessage,
    Write,
)

# Looked at for every reply: a name of the module costs less than a member of an enum.
_MAIL, _RCPT = Stage.MAIL, Stage.RCPT


def _at_rcpt(reply: SmtpReply) -> SmtpReply:
    """RFC 5321 §4.5.3.1.10: 552 at RCPT means too many recipients; treat it as 452."""
    if reply.code != 552:
        return reply
    enhanced = reply.enhanced
    if enhanced is not None:
        enhanced = EnhancedStatus(4, enhanced.subject, enhanced.detail)
    return replace(reply, code=452, enhanced=enhanced)


class Dialogue:
    """One session, from the greeting to its end. Every method returns the steps to take."""

    __slots__ = (
        "_content",
        "_ehlo_name",
        "_expected",
        "_is_tls",
        "_needs_rset",
        "_queue",
        "_reader",
        "_requires_tls",
        "_wants_tls",
        "extensions",
        "is_over",
        "is_ready",
        "reply_count",
    )

    def __init__(self, ehlo_name: str, *, wants_tls: bool, requires_tls: bool = False) -> None:
        self._ehlo_name = ehlo_name.encode("ascii", "replace")
        self._wants_tls = wants_tls or requires_tls
        self._requires_tls = requires_tls
        self._is_tls = False
        self._reader = ReplyReader()
        self._expected: deque[tuple[Stage, Transaction | None, int]] = deque()
        self._expected.append((Stage.BANNER, None, 0))
        self._queue: deque[Transaction] = deque()
        self._content: Transaction | None = None
        self._needs_rset = False
        self.extensions = Extensions()
        self.is_ready = False
        self.is_over = False
        self.reply_count = 0

    @property
    def awaits(self) -> Stage | None:
        """What the next reply will answer; None when none is due."""
        return self._expected[0][0] if self._expected else None

    def receive(self, data: bytes) -> list[Step]:
        """Take bytes of the server."""
        steps: list[Step] = []
        reader = self._reader
        for code, lines in reader.feed(data):
            if self.is_over or reader is not self._reader:
                # What came in clear behind the answer to STARTTLS is nobody's (RFC 3207 §6).
                return steps
            self.reply_count += 1
            self._take(code, lines, steps)
        if reader.fault and reader is self._reader and not self.is_over:
            self._garbled(reader.fault, self.awaits, steps)
        return steps

    def tls_established(self) -> list[Step]:
        """The handshake succeeded: forget what was said in clear and greet again."""
        self._is_tls = True
        self.extensions = Extensions()
        steps: list[Step] = []
        self._command(Stage.EHLO, b"EHLO " + self._ehlo_name + b"\r\n", steps)
        return steps

    def begin(self, transaction: Transaction) -> list[Step]:
        """Start a transaction; the content of the one before must have been sent."""
        steps: list[Step] = []
        refusal = self._local_refusal(transaction.message)
        if refusal is not None:
            transaction.decide(refusal, Stage.MAIL, Scope.MESSAGE)
            steps.append(Done(transaction))
        elif self.extensions.pipelining:
            self._write_group(transaction, steps)
        else:
            self._queue.append(transaction)
            self._next_in_turn(steps)
        return steps

    def dot_sent(self, transaction: Transaction) -> None:
        """The content and its dot have been written."""
        transaction.is_dot_sent = True
        self._content = None
        self._expected.append((Stage.DOT, transaction, 0))

    def break_off(self) -> list[Transaction]:
        """End the session; return the transactions left undecided, each with its stage."""
        self.is_over = True
        self.is_ready = False
        left: dict[int, Transaction] = {}
        if self._content is not None:
            self._content.stage = Stage.DATA
            left[id(self._content)] = self._content
        for stage, transaction, _ in self._expected:
            if transaction is not None and id(transaction) not in left:
                is_withheld = stage is Stage.DOT and not transaction.is_dot_sent
                transaction.stage = Stage.DATA if is_withheld else stage
                left[id(transaction)] = transaction
        left |= {id(transaction): transaction for transaction in self._queue}
        self._expected.clear()
        self._queue.clear()
        self._content = None
        return list(left.values())

    # -- replies

    def _take(self, code: int, lines: tuple[bytes, ...], steps: list[Step]) -> None:
        if not self._expected:
            self._unsolicited(code, lines, steps)
            return
        stage, transaction, index = self._expected.popleft()
        if transaction is not None and code < 300 and (stage is _RCPT or stage is _MAIL):
            if stage is _MAIL:
                transaction.is_mail_accepted = True
            if not self.extensions.pipelining:
                self._next_command(transaction, stage, index, steps)
        elif code == 421:
            self._closing(_reply(code, lines), stage, transaction, steps)
        elif transaction is None:
            self._take_for_session(stage, code, lines, steps)
        elif code // 100 == 3 and not (stage is Stage.DATA and code == 354):
            self._expected.appendleft((stage, transaction, index))
            self._garbled(f"an answer of {code} to {stage.value.upper()}", stage, steps)
        elif stage is Stage.DOT:
            scope = Scope.MESSAGE
            transaction.decide(_reply(code, lines), stage, scope)
            self._done(transaction, steps)
        elif stage is Stage.DATA:
            self._take_data(transaction, code, lines, steps)
        else:
            self._refuse_envelope(stage, transaction, index, code, lines)
            if not self.extensions.pipelining:
                self._next_command(transaction, stage, index, steps)

    def _refuse_envelope(
        self,
        stage: Stage,
        transaction: Transaction,
        index: int,
        code: int,
        lines: tuple[bytes, ...],
    ) -> None:
        if stage is Stage.MAIL:
            # A 5yz to MAIL is about us: another host may think otherwise.
            scope = Scope.HOST if code >= 500 else Scope.MESSAGE
            transaction.decide(_reply(code, lines), stage, scope)
        elif transaction.verdicts[index] is None:
            reply = _at_rcpt(_reply(code, lines))
            transaction.verdicts[index] = RecipientReply(reply, stage.value, Scope.RECIPIENT)

    def _take_data(
        self, transaction: Transaction, code: int, lines: tuple[bytes, ...], steps: list[Step]
    ) -> None:
        if code == 354:
            if transaction.is_decided:
                # RFC 2920 §3.1: nobody is left, so the content is empty and its reply nobody's.
                self._command(Stage.LONE_DOT, b".\r\n", steps)
                self._done(transaction, steps)
            else:
                self._content = transaction
                steps.append(SendContent(transaction))
        elif code // 100 == 2:
            self._expected.appendleft((Stage.DATA, transaction, 0))
            self._garbled(f"an answer of {code} to DATA", Stage.DATA, steps)
        else:
            transaction.decide(_reply(code, lines), Stage.DATA, Scope.MESSAGE)
            self._needs_rset = transaction.is_mail_accepted
            self._done(transaction, steps)

    def _take_for_session(
        self, stage: Stage, code: int, lines: tuple[bytes, ...], steps: list[Step]
    ) -> None:
        is_positive = code // 100 == 2
        if stage is Stage.BANNER and is_positive:
            self._command(Stage.EHLO, b"EHLO " + self._ehlo_name + b"\r\n", steps)
        elif stage is Stage.EHLO and is_positive:
            self.extensions = Extensions.parse(lines)
            self._greeted(steps)
        elif stage is Stage.HELO and is_positive:
            self._greeted(steps)
        elif stage is Stage.EHLO and code >= 500 and not self._is_tls:
            self._command(Stage.HELO, b"HELO " + self._ehlo_name + b"\r\n", steps)
        elif stage is Stage.STARTTLS:
            self._take_starttls(code, lines, steps)
        elif stage in (Stage.BANNER, Stage.EHLO, Stage.HELO):
            told = "ehlo" if stage is Stage.HELO else stage.value
            self._fail(FaultKind.REFUSED, _reply(code, lines), told, Scope.HOST, steps)
        else:
            # RSET and the lone dot: whatever was said, it is nobody's verdict.
            self._next_in_turn(steps)

    def _take_starttls(self, code: int, lines: tuple[bytes, ...], steps: list[Step]) -> None:
        if code == 220:
            self._reader = ReplyReader()
            steps.append(StartTls())
        elif self._requires_tls:
            self._fail(FaultKind.TLS, _reply(code, lines), "starttls", Scope.HOST, steps)
        else:
            self._is_ready(steps)

    def _greeted(self, steps: list[Step]) -> None:
        if self._is_tls or not self._wants_tls:
            self._is_ready(steps)
        elif self.extensions.starttls:
            self._command(Stage.STARTTLS, b"STARTTLS\r\n", steps)
        elif self._requires_tls:
            reply = SmtpReply.local(451, "4.7.4", "TLS is required and not offered")
            self._fail(FaultKind.TLS, reply, "starttls", Scope.HOST, steps)
        else:
            self._is_ready(steps)

    def _is_ready(self, steps: list[Step]) -> None:
        self.is_ready = True
        steps.append(Ready())

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
        self._fail(kind, reply, "mail" if self.is_ready else stage.value, scope, steps)

    def _unsolicited(self, code: int, lines: tuple[bytes, ...], steps: list[Step]) -> None:
        transaction, reply = self._content, _reply(code, lines)
        if transaction is not None and code >= 400:
            # Refused while the content is under way: without its dot nothing was accepted.
            scope = Scope.SESSION if code == 421 else Scope.MESSAGE
            transaction.decide(reply, Stage.DATA, scope)
            self._content = None
            steps.append(Done(transaction))
        if code == 421 or transaction is not None:
            self._fail(FaultKind.BROKEN, reply, "data", Scope.SESSION, steps)
        else:
            self._garbled(f"an answer of {code} to no command", None, steps)

    def _garbled(self, reason: str, stage: Stage | None, steps: list[Step]) -> None:
        reply = SmtpReply.local(451, "4.5.0", f"protocol error: {reason}")
        scope = Scope.SESSION if self.is_ready else Scope.HOST
        told = stage.value if stage is not None else "mail"
        self._fail(FaultKind.BROKEN, reply, told, scope, steps)

    def _fail(
        self, kind: FaultKind, reply: SmtpReply, stage: str, scope: Scope, steps: list[Step]
    ) -> None:
        self.is_over = True
        self.is_ready = False
        steps.append(Failed(kind, reply, stage, scope))

    # -- commands

    def _command(self, stage: Stage, data: bytes, steps: list[Step]) -> None:
        self._expected.append((stage, None, 0))
        steps.append(Write(data))

    def _done(self, transaction: Transaction, steps: list[Step]) -> None:
        steps.append(Done(transaction))
        if self._queue and not self.is_over:
            self._next_in_turn(steps)

    def _local_refusal(self, message: WireMessage) -> SmtpReply | None:
        extensions = self.extensions
        if message.needs_smtputf8 and not extensions.smtputf8:
            return SmtpReply.local(550, "5.6.7", "the server does not take UTF-8 addresses")
        if extensions.size and len(message.content) > extensions.size:
            return SmtpReply.local(
                552,
                "5.3.4",
                f"the message has {len(message.content)} octets, the server takes"
                f" {extensions.size}",
            )
        for path in (message.reverse_path, *message.forward_paths):
            if not path.isprintable():
                return SmtpReply.local(553, "5.1.3", "an address contains a control character")
        return None

    def _mail(self, message: WireMessage) -> str:
        parameters = ""
        if self.extensions.size is not None:
            parameters = f" SIZE={len(message.content)}"
        if message.needs_8bit and self.extensions.eight_bit:
            parameters += " BODY=8BITMIME"
        if message.needs_smtputf8:
            parameters += " SMTPUTF8"
        return f"MAIL FROM:<{message.reverse_path}>{parameters}\r\n"

    def _write_group(self, transaction: Transaction, steps: list[Step]) -> None:
        """PIPELINING: MAIL, every RCPT and DATA in one write."""
        message, expected = transaction.message, self._expected
        commands = [self._mail(message)]
        if self._needs_rset:
            self._needs_rset = False
            commands.insert(0, "RSET\r\n")
            expected.append((Stage.RSET, None, 0))
        expected.append((Stage.MAIL, transaction, 0))
        for index, path in enumerate(message.forward_paths):
            commands.append(f"RCPT TO:<{path}>\r\n")
            expected.append((Stage.RCPT, transaction, index))
        commands.append("DATA\r\n")
        expected.append((Stage.DATA, transaction, 0))
        steps.append(Write("".join(commands).encode()))

    def _next_in_turn(self, steps: list[Step]) -> None:
        """No PIPELINING: begin the oldest transaction once nothing else is under way."""
        if not self._queue or self._expected or self._content is not None:
            return
        if self._needs_rset:
            self._needs_rset = False
            self._command(Stage.RSET, b"RSET\r\n", steps)
            return
        transaction = self._queue.popleft()
        self._expected.append((Stage.MAIL, transaction, 0))
        steps.append(Write(self._mail(transaction.message).encode()))

    def _next_command(
        self, transaction: Transaction, stage: Stage, index: int, steps: list[Step]
    ) -> None:
        """No PIPELINING: the command that follows this reply."""
        paths = transaction.message.forward_paths
        following = index + 1 if stage is Stage.RCPT else 0
        if not transaction.is_mail_accepted:
            self._done(transaction, steps)
        elif following < len(paths):
            self._expected.append((Stage.RCPT, transaction, following))
            steps.append(Write(f"RCPT TO:<{paths[following]}>\r\n".encode()))
        elif transaction.is_decided:
            self._needs_rset = True
            self._done(transaction, steps)
        else:
            self._expected.append((Stage.DATA, transaction, 0))
            steps.append(Write(b"DATA\r\n"))
