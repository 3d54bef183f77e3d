"""One SMTP session on a socket: bytes, deadlines and flow control around the dialogue.

Gives    SmtpProtocol (a `mailcore.ports.Connection` once it is open)
Takes    an endpoint, timeouts, a running event loop
Raises   TransportError kinds, through the futures `opened` and `replies`
Follows  RFC 5321 §4.5.3.2 (timeouts); what to say and what a reply means: mailcore.transaction

Costs that matter: one write per step, no task and no timer per message. The one timer of a
session is armed for the earliest deadline it may have to keep and looks again when it fires.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

from mailcore.outcome import Scope
from mailcore.policy.words import TlsMode
from mailcore.ports import (
    Disconnected,
    Endpoint,
    TimedOut,
    TransportError,
    WireMessage,
    Withheld,
)
from mailcore.reply import SmtpReply
from mailcore.security import CLEAR, Proven
from mailcore.transaction import (
    Dialogue,
    Done,
    Failed,
    Ready,
    SendContent,
    Stage,
    StartTls,
    Step,
    Write,
)
from mailio.smtp_transaction import (
    KINDS,
    ChunkingMemory,
    SmtpTransaction,
    Timeouts,
    blames_tls,
    described,
    fail_future,
    tls_broken,
)

BLOCK_BYTES = 128 * 1024
# What is kept back of large content until the claim has been asked about; without it a server
# that was told the size of a chunk has nothing whole.
LAST_BYTES = 4096


class SmtpProtocol(asyncio.Protocol):
    """A session from connect to close."""

    def __init__(
        self,
        endpoint: Endpoint,
        timeouts: Timeouts,
        loop: asyncio.AbstractEventLoop,
        chunking: ChunkingMemory,
    ) -> None:
        self._loop = loop
        self._endpoint = endpoint
        self._timeouts = timeouts
        self._stage_timeouts = timeouts.of_stages()
        self._dialogue = Dialogue(
            endpoint.ehlo_name,
            wants_tls=endpoint.tls is TlsMode.OPPORTUNISTIC,
            requires_tls=endpoint.tls is TlsMode.REQUIRED,
            credentials=endpoint.credentials,
            allows_chunking=endpoint.allows_chunking and chunking.allows(endpoint.address),
        )
        self._chunking = chunking
        self._transport: asyncio.Transport | None = None
        self._lost: asyncio.Future[None] = loop.create_future()
        self._answered: asyncio.Future[None] | None = None
        self._is_tls_negotiated = self._is_shaking_hands = False
        self._early = b""
        self._is_paused = False
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._ending: SmtpTransaction | None = None
        self._held: list[bytes] = []
        self._sending: SmtpTransaction | None = None
        self._unsent = memoryview(b"")
        self._last: tuple[bytes, ...] = ()
        # True: the session takes transactions; False: it is time for the TLS handshake.
        self.opened: asyncio.Future[bool] = loop.create_future()
        if endpoint.is_implicit_tls:
            self.opened.set_result(False)
        self.proven = CLEAR
        self.session = described(endpoint)

    # -- what the engine uses

    @property
    def is_usable(self) -> bool:
        """Whether another transaction may begin."""
        transport = self._transport
        return (
            self._dialogue.can_begin
            and self._answered is None
            and transport is not None
            and not transport.is_closing()
        )

    @property
    def takes_8bit(self) -> bool:
        """Whether content with octets over 127 may be sent as it is."""
        return self._dialogue.extensions.eight_bit

    @property
    def takes_requiretls(self) -> bool:
        """Whether the server passes a message's need for TLS on."""
        return self._is_tls_negotiated and self._dialogue.extensions.require_tls

    @property
    def most_recipients(self) -> int:
        """How many recipients a transaction may have; 0 if the server set no limit."""
        return self._dialogue.extensions.rcpt_max

    def begin(
        self, message: WireMessage, *, before_dot: Callable[[Sequence[int]], bool]
    ) -> SmtpTransaction:
        """Start a transaction; the previous one's content must have been sent."""
        transaction = SmtpTransaction(message, before_dot, self._loop)
        if self._sending is not None:
            raise RuntimeError("the content of the previous transaction is still being sent")
        if self.is_usable:
            self._run(self._dialogue.begin(transaction))
        else:
            reply = SmtpReply.local(451, "4.4.2", "the session was closed before MAIL")
            transaction.fail(Disconnected(reply, scope=Scope.SESSION, stage="mail"))
        return transaction

    async def close(self) -> None:
        """Say QUIT, wait a little, close."""
        transport = self._transport
        if transport is None or self._lost.done():
            return
        is_idle = self._dialogue.awaits is None and self._sending is None
        if self._dialogue.is_ready and is_idle and not transport.is_closing():
            self._answered = self._loop.create_future()
            transport.write(b"QUIT\r\n")
            await asyncio.wait(
                (self._answered, self._lost),
                timeout=self._timeouts.quit_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
        self.abandon("the session was closed by us")

    # -- what the connector uses

    def abandon(self, reason: str) -> None:
        """Drop the line now; who has no reply yet is told that it was lost."""
        reply = SmtpReply.local(451, "4.4.2", reason)
        self._break(Disconnected, reply, scope=Scope.SESSION)

    def tls_begins(self) -> None:
        """From here on all that comes was decrypted."""
        self._is_shaking_hands = True

    def tls_established(self, transport: asyncio.Transport, proven: Proven) -> None:
        """Go on under TLS, through the transport that encrypts."""
        self._transport = transport
        self.proven = proven
        self._is_tls_negotiated = True
        self.opened = self._loop.create_future()
        if self._dialogue.is_over:
            text = "the connection was lost in the TLS handshake"
            fail_future(self.opened, tls_broken(SmtpReply.local(451, "4.4.2", text), "starttls"))
            return
        self._run(self._dialogue.tls_established())
        self.data_received(self._early)

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The TCP connection is there: wait for the greeting."""
        self._transport = cast(asyncio.Transport, transport)
        self._await_next()

    def data_received(self, data: bytes) -> None:
        """Bytes of the server."""
        if self._answered is not None:
            if not self._answered.done():
                self._answered.set_result(None)
        elif self.opened.done() and not self._dialogue.is_ready:
            # Between 220 and the handshake, or after the end: nothing said now counts but the
            # greeting, where TLS comes first: it may come with the handshake's last octets.
            if self._endpoint.is_implicit_tls and self._is_shaking_hands:
                self._early += data
        elif self._ending is not None:
            # It cannot answer what has not left yet.
            text = "protocol error: an answer before the end of the content was sent"
            self._dialogue.is_in_doubt = True
            self._break(Disconnected, SmtpReply.local(451, "4.5.0", text), scope=Scope.SESSION)
        else:
            dialogue = self._dialogue
            before = dialogue.reply_count
            steps = dialogue.receive(data)
            # Half a reply moves no deadline, or a peer could hold us by a byte now and then.
            if steps or dialogue.reply_count != before:
                self._run(steps)

    def connection_lost(self, exc: Exception | None) -> None:
        """The line is gone, by whomever."""
        if not self._lost.done():
            self._lost.set_result(None)
        if not self._dialogue.is_over:
            reason = f"connection lost at {self._stage()}" + (f": {exc}" if exc else "")
            self._break(Disconnected, SmtpReply.local(451, "4.4.2", reason))
        self._disarm()

    def pause_writing(self) -> None:
        """The peer reads slower than we write."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """There is room again."""
        self._is_paused = False
        if self._sending is not None:
            self._send_blocks(self._sending)

    # -- steps

    def _run(self, steps: list[Step]) -> None:
        transport = self._transport
        for step in steps:
            if isinstance(step, Write):
                if self._ending is not None:
                    self._held.append(step.data)
                elif transport is not None:
                    transport.write(step.data)
            elif isinstance(step, Done):
                cast(SmtpTransaction, step.transaction).finish()
            elif isinstance(step, SendContent):
                self._send_content(step)
            elif isinstance(step, Failed):
                self._break(KINDS[step.kind], step.reply, scope=step.scope, stage=step.stage)
            else:
                self._open(step)
        if not self._dialogue.is_over:
            self._await_next()

    def _open(self, step: Ready | StartTls) -> None:
        if isinstance(step, Ready):
            dsn = self._dialogue.extensions.dsn
            self.session = described(self._endpoint, self._transport, offers_dsn=dsn)
        if not self.opened.done():
            self.opened.set_result(isinstance(step, Ready))

    # -- content

    def _send_content(self, step: SendContent) -> None:
        transaction = cast(SmtpTransaction, step.transaction)
        head, content, mark = step.frame()
        if len(content) <= BLOCK_BYTES:
            self._end_content(transaction, (head, content, mark))
            return
        self._sending = transaction
        self._unsent = memoryview(content)[:-LAST_BYTES]
        self._last = (content[-LAST_BYTES:], mark)
        if head and self._transport is not None:
            self._transport.write(head)
        self._send_blocks(transaction)

    def _end_content(self, transaction: SmtpTransaction, last: tuple[bytes, ...]) -> None:
        """Send what is left and the content's end when this turn of the loop ends.

        Whoever waits for `content_sent` runs before that, so that the commands of the next
        transaction leave in the same write: a packet and a system call less per message.
        """
        self._ending = transaction
        self._held = [*last]
        self._dialogue.dot_sent(transaction)
        transaction.note_content_sent()
        self._loop.call_soon(self._write_end)

    def _write_end(self) -> None:
        transaction, transport = self._ending, self._transport
        if transaction is None or transport is None:
            return  # The line was lost in this very turn.
        is_ours = False
        try:
            is_ours = transaction.before_dot(transaction.undecided)
        finally:
            if not is_ours:
                reply = SmtpReply.local(451, "4.3.0", "withheld before the final dot")
                self._break(Withheld, reply, scope=Scope.SESSION)
        if is_ours:
            self._ending = None
            transport.write(b"".join(self._held))

    def _send_blocks(self, transaction: SmtpTransaction) -> None:
        transport = self._transport
        while self._unsent and not self._is_paused and transport is not None:
            block, self._unsent = self._unsent[:BLOCK_BYTES], self._unsent[BLOCK_BYTES:]
            transport.write(block)
        if self._sending is not transaction:
            return
        if self._unsent or self._is_paused:
            self._set_deadline(self._timeouts.block_s)
            return
        self._sending = None
        self._end_content(transaction, self._last)
        self._await_next()

    # -- the end

    def _stage(self) -> str:
        if self._sending is not None:
            return Stage.DATA.value
        stage = self._dialogue.awaits
        return stage.told if stage is not None else Stage.MAIL.value

    def _break(
        self,
        kind: type[TransportError],
        reply: SmtpReply,
        *,
        scope: Scope | None = None,
        stage: str | None = None,
    ) -> None:
        """End the session: the oldest transaction fails as `kind`, those behind it as lost."""
        stage = stage or self._stage()
        was_open = self.opened.done() and self._dialogue.is_ready
        scope = scope or (Scope.SESSION if was_open else Scope.HOST)
        if self._dialogue.is_chunking_broken:
            self._chunking.note_broken(self._endpoint.address)
        self._sending = None
        self._unsent = memoryview(b"")
        if self._ending is not None:
            self._ending.is_dot_sent = False
            self._ending = None
        for transaction in self._dialogue.break_off():
            cast(SmtpTransaction, transaction).fail(
                kind(
                    reply,
                    scope=scope,
                    stage=transaction.stage.value,
                    after_dot=transaction.is_dot_sent,
                    decided=tuple(transaction.verdicts),
                )
            )
            kind, scope = Disconnected, Scope.SESSION
        error = kind(reply, scope=scope, stage=stage)
        if blames_tls(error, self._endpoint, is_under_tls=self._is_tls_negotiated):
            error = tls_broken(reply, stage)
        fail_future(self.opened, error)
        self._disarm()
        if self._transport is not None:
            self._transport.abort()

    # -- deadlines

    def _await_next(self) -> None:
        """Keep the deadline of what is due next."""
        if self._sending is not None:
            return
        stage = self._dialogue.awaits
        if stage is None:
            self._deadline = 0.0
        else:
            self._set_deadline(self._stage_timeouts[stage])

    def _set_deadline(self, seconds: float) -> None:
        self._deadline = self._loop.time() + seconds
        timer = self._timer
        if timer is None or timer.when() > self._deadline:
            self._disarm()
            self._timer = self._loop.call_at(self._deadline, self._look)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if not self._deadline or self._dialogue.is_over:
            return
        if self._loop.time() < self._deadline - 0.001:
            self._timer = self._loop.call_at(self._deadline, self._look)
            return
        waited = "while sending content" if self._sending is not None else f"at {self._stage()}"
        reply = SmtpReply.local(451, "4.4.2", f"timed out {waited}")
        # A reply that was lost moved those behind it. At the end of content none of them was.
        self._dialogue.is_in_doubt |= self._dialogue.awaits is not Stage.DOT
        self._break(TimedOut, reply, scope=Scope.HOST)
