"""What is said next in a session that takes transactions, and what is then awaited.

Gives    Turns: the half of a Dialogue that writes commands
Takes    transactions, and word that an answer came
Raises   nothing
Follows  RFC 5321 §4.1.4 (order of commands); RFC 2920 (PIPELINING)
"""

from __future__ import annotations

from collections import deque

from mailcore.transaction.commands import group_of, mail_command, rcpt_command
from mailcore.transaction.extensions import Extensions
from mailcore.transaction.message import Stage, Transaction
from mailcore.transaction.steps import Done, SendContent, Step, Write


class Turns:
    """Each command that is written adds what its answer will be for to `_expected`."""

    __slots__ = (
        "_content",
        "_expected",
        "_left",
        "_needs_rset",
        "_queue",
        "extensions",
        "is_over",
        "is_ready",
    )

    def __init__(self) -> None:
        self._expected: deque[tuple[Stage, Transaction | None, int]] = deque()
        self._queue: deque[Transaction] = deque()
        self._content: Transaction | None = None
        self._needs_rset = False
        self._left = 0
        self.extensions = Extensions()
        self.is_ready = False
        self.is_over = False

    @property
    def can_begin(self) -> bool:
        """Whether the server takes another transaction (RFC 9422: MAILMAX)."""
        return self.is_ready and self._left > 0

    def _command(self, stage: Stage, step: Write, steps: list[Step]) -> None:
        self._expected.append((stage, None, 0))
        steps.append(step)

    def _send_content(self, transaction: Transaction, steps: list[Step]) -> None:
        self._content = transaction
        steps.append(SendContent(transaction))

    def _done(self, transaction: Transaction, steps: list[Step]) -> None:
        steps.append(Done(transaction))
        if self._queue and not self.is_over:
            self._next_in_turn(steps)

    def _write_group(self, transaction: Transaction, steps: list[Step]) -> None:
        """PIPELINING: MAIL and every RCPT in one write, and DATA unless a chunk follows."""
        expected, commands = self._expected, group_of(transaction, self.extensions)
        if self._needs_rset:
            self._needs_rset = False
            commands.insert(0, "RSET\r\n")
            expected.append((Stage.RSET, None, 0))
        expected.append((Stage.MAIL, transaction, 0))
        expected.extend((Stage.RCPT, transaction, index) for index in transaction.offered)
        if not transaction.is_chunked:
            expected.append((Stage.DATA, transaction, 0))
        steps.append(Write("".join(commands).encode()))

    def _next_in_turn(self, steps: list[Step]) -> None:
        """No PIPELINING: begin the oldest transaction once nothing else is under way."""
        if not self._queue or self._expected or self._content is not None:
            return
        if self._needs_rset:
            self._needs_rset = False
            self._command(Stage.RSET, Write(b"RSET\r\n"), steps)
            return
        transaction = self._queue.popleft()
        self._expected.append((Stage.MAIL, transaction, 0))
        steps.append(Write(mail_command(transaction.message, self.extensions).encode()))

    def _go_on(self, transaction: Transaction, stage: Stage, index: int, steps: list[Step]) -> None:
        """Do what follows an answer in the envelope, where it was not written before."""
        offered = transaction.offered
        if self.extensions.pipelining:
            if stage is Stage.RCPT and index == offered[-1]:
                self._envelope_answered(transaction, steps)
            return
        position = 0 if stage is Stage.MAIL else offered.index(index) + 1
        if transaction.is_mail_accepted and position < len(offered):
            following = offered[position]
            self._expected.append((Stage.RCPT, transaction, following))
            command = rcpt_command(transaction.message, following, self.extensions)
            steps.append(Write(command.encode()))
        else:
            self._envelope_answered(transaction, steps)

    def _envelope_answered(self, transaction: Transaction, steps: list[Step]) -> None:
        if not transaction.is_decided:
            if transaction.is_chunked:
                self._send_content(transaction, steps)
            else:
                self._expected.append((Stage.DATA, transaction, 0))
                steps.append(Write(b"DATA\r\n"))
            return
        if transaction.may_restart and transaction.is_refused_as_second and self.can_begin:
            self._left -= 1
            self._needs_rset = True
            transaction.forget()
            self._write_group(transaction, steps)
        else:
            self._nothing_goes(transaction, steps)

    def _nothing_goes(self, transaction: Transaction, steps: list[Step]) -> None:
        """No content follows the envelope, which a RSET drops where the server took any of it."""
        self._needs_rset |= transaction.is_open
        if transaction.needs_proof:
            # Said now: its answer shows whether those before it were in their places.
            self._needs_rset = False
            self._expected.append((Stage.RSET, transaction, 0))
            steps.append(Write(b"RSET\r\n"))
        else:
            self._done(transaction, steps)
