"""One SMTP session of a client: a socket, TLS and deadlines around mailcore.reception.

Gives    SmtpSession (an asyncio.Protocol); Patience (how long each wait may take), Desk (what
         sessions work with), Home (what they know of their server)
Raises   nothing
Follows  RFC 5321 §4.5.3.2.7 (a server waits at least five minutes) and §3.8 (how a session ends)
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from mailcore.address import ForwardPath
from mailcore.ports import StoreUnavailable
from mailcore.reception import (
    Close,
    Gauge,
    Identity,
    Limits,
    Reception,
    Say,
    StartTls,
    Step,
    Take,
    Verify,
    Waits,
    reply_octets,
)
from mailcore.reply import SmtpReply
from mailio.smtp_batches import Batches
from mailio.smtp_door import Door

log = logging.getLogger(__name__)
_MOST_BUFFERED = 256 * 1024
Check = Callable[[str, str], Awaitable[Identity | None]]


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds a session may take for each of its steps. `content_s` is for a whole message; a
    client that is still talking when we close gets `linger_s` to read why."""

    command_s: float = 300.0
    block_s: float = 300.0
    content_s: float = 1800.0
    tls_s: float = 30.0
    decide_s: float = 540.0
    write_s: float = 300.0
    linger_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Desk:
    """What sessions work with."""

    door: Door
    batches: Batches
    check: Check
    postmaster: Callable[[], ForwardPath]


class Home(Protocol):
    """What a session knows of its server."""

    @property
    def desk(self) -> Desk:
        """What it works with."""
        ...

    @property
    def host(self) -> str:
        """The name it greets with."""
        ...

    @property
    def patience(self) -> Patience:
        """How long it waits."""
        ...

    @property
    def limits(self) -> Limits:
        """What it may do."""
        ...

    @property
    def gauge(self) -> Gauge:
        """What all sessions hold in memory."""
        ...

    @property
    def tls(self) -> ssl.SSLContext | None:
        """The certificate, if there is one."""
        ...

    def came(self, session: SmtpSession) -> None:
        """A session has begun."""
        ...

    def gone(self, session: SmtpSession) -> None:
        """A session has ended."""
        ...


class SmtpSession(asyncio.Protocol):
    """One connection. `tls_client` is the address of one that came by TLS and is counted."""

    def __init__(self, server: Home, *, tls_client: str | None = None) -> None:
        self._server = server
        self._desk = server.desk
        self._patience = server.patience
        self._is_tls = tls_client is not None
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._dialogue: Reception | None = None
        self._address = tls_client or ""
        self._work: asyncio.Task[None] | None = None
        self._early: list[bytes] = []
        self._is_closing = False
        self._is_gone = False
        self._has_peer_ended = False
        self._is_write_blocked = False
        self._content_until: float | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet, or say why not."""
        # uvloop's transports are asyncio's by their methods alone.
        self._transport = wire = cast(asyncio.Transport, transport)
        door, server = self._desk.door, self._server
        if not self._is_tls:
            peer = transport.get_extra_info("peername")
            self._address = str(peer[0]) if peer else ""
            refusal = door.enter(self._address)
            if refusal is not None:
                log.info("session refused", extra={"client": self._address, "reply": str(refusal)})
                wire.write(reply_octets(refusal))
                wire.close()
                return
        self._dialogue = Reception(
            host=server.host,
            limits=server.limits,
            doorkeeper=door,
            gauge=server.gauge,
            postmaster=self._desk.postmaster(),
            is_tls=self._is_tls,
            can_start_tls=server.tls is not None and not self._is_tls,
            own_identity=door.own_identity(self._address),
        )
        self._run(self._dialogue.greet())
        server.came(self)

    def data_received(self, data: bytes) -> None:
        """Go on with the dialogue."""
        dialogue = self._dialogue
        if dialogue is None or self._is_closing:
            return
        if dialogue.waits is Waits.TLS:
            # Decrypted already: what came in clear was refused, and reading is paused since then.
            self._early.append(data)
            return
        steps = dialogue.receive(data)
        if steps or dialogue.is_in_content:
            self._run(steps)
        elif dialogue.buffered > _MOST_BUFFERED and self._transport is not None:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """A client may end its side and still wait for an answer."""
        self._has_peer_ended = True
        dialogue = self._dialogue
        is_waiting = dialogue is not None and dialogue.waits is not Waits.NOTHING
        return is_waiting and not self._is_tls

    def connection_lost(self, exc: Exception | None) -> None:
        """Give back what is held."""
        if self._is_gone:
            return
        self._is_gone = True
        if self._timer is not None:
            self._timer.cancel()
        if self._work is not None:
            self._work.cancel()
        if self._dialogue is not None:
            self._dialogue.abandon()
            self._desk.door.leave(self._address)
            self._server.gone(self)

    def pause_writing(self) -> None:
        """The client does not read its answers: neither do we its commands."""
        self._is_write_blocked = True
        if self._transport is not None:
            self._transport.pause_reading()
        self._arm(self._patience.write_s)

    def resume_writing(self) -> None:
        """It does."""
        self._is_write_blocked = False
        if self._transport is not None and not self._is_closing:
            self._transport.resume_reading()
            self._wait_for_next()

    # -- the server

    def close_down(self) -> None:
        """End as soon as no transaction is under way."""
        if self._dialogue is not None and not self._is_closing:
            self._run(self._dialogue.close_down())

    def cut_off(self) -> None:
        """End now."""
        dialogue, transport = self._dialogue, self._transport
        if transport is None:
            return
        transport.abort()
        if dialogue is not None and dialogue.waits is Waits.TLS:
            # Nobody is told of a line that is lost in the middle of a handshake.
            self.connection_lost(None)

    @property
    def has_begun(self) -> bool:
        """Whether there is a connection, or was."""
        return self._transport is not None

    # -- steps

    def _run(self, steps: Sequence[Step]) -> None:
        transport, dialogue = self._transport, self._dialogue
        if transport is None or dialogue is None:
            return
        said = [step.octets for step in steps if isinstance(step, Say)]
        if said:
            transport.write(b"".join(said))
        last = steps[-1] if steps else None
        if isinstance(last, Close):
            self._close(is_peer_talking=last.is_peer_talking)
            return
        if isinstance(last, Take):
            self._desk.batches.offer(last.letter, self._address, self._decided)
        elif isinstance(last, Verify):
            self._work = self._loop.create_task(self._verify(last))
        elif isinstance(last, StartTls):
            transport.pause_reading()
            self._work = self._loop.create_task(self._secure(transport))
        self._wait_for_next()

    def _decided(self, reply: SmtpReply) -> None:
        dialogue = self._dialogue
        if dialogue is None:
            return
        steps = dialogue.decided(reply)
        if not self._is_closing:
            self._resume(steps)

    def _resume(self, steps: Sequence[Step]) -> None:
        """Go on after a wait."""
        self._run(steps)
        transport, dialogue = self._transport, self._dialogue
        if transport is None or dialogue is None or self._is_closing:
            return
        if self._has_peer_ended and dialogue.waits is Waits.NOTHING:
            self._close(is_peer_talking=False)
        elif not self._is_write_blocked and dialogue.waits is not Waits.TLS:
            transport.resume_reading()

    async def _verify(self, step: Verify) -> None:
        dialogue = self._dialogue
        if dialogue is None:
            return
        try:
            identity = await self._desk.check(step.user, step.password)
        except StoreUnavailable as exc:
            log.warning("a login cannot be checked", extra={"reason": exc.reason})
            self._resume(dialogue.not_verified(is_temporary=True))
            return
        except Exception:
            # The plane's edge: whatever broke, the client gets an answer.
            log.exception("a login cannot be checked")
            self._resume(dialogue.not_verified(is_temporary=True))
            return
        if identity is None:
            log.info("login refused", extra={"client": self._address})
            self._desk.door.login_failed(self._address)
            self._resume(dialogue.not_verified())
        else:
            self._resume(dialogue.verified(identity))

    async def _secure(self, transport: asyncio.Transport) -> None:
        context, dialogue = self._server.tls, self._dialogue
        if context is None or dialogue is None:
            return
        try:
            secured = await self._loop.start_tls(
                transport,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=self._patience.tls_s,
            )
        except (OSError, ssl.SSLError, TimeoutError) as exc:
            log.info("TLS failed", extra={"client": self._address, "reason": str(exc)})
            secured = None
        if secured is None:
            self.cut_off()
            return
        self._transport, self._is_tls = secured, True
        self._run(dialogue.secured())
        early, self._early = b"".join(self._early), []
        if early:
            self.data_received(early)

    def _close(self, *, is_peer_talking: bool) -> None:
        """Close. Closing on octets that nobody read makes TCP throw our last answer away, so
        a client that may still be talking is let talk for a moment."""
        transport = self._transport
        if transport is None or self._is_closing:
            return
        self._is_closing = True
        if not is_peer_talking:
            transport.close()
            return
        if transport.can_write_eof():
            transport.write_eof()
        if not self._is_write_blocked:
            transport.resume_reading()
        self._arm(self._patience.linger_s)

    # -- deadlines

    def _wait_for_next(self) -> None:
        """Keep the deadline of what is due now. Octets of half a line do not move it."""
        dialogue, patience = self._dialogue, self._patience
        if dialogue is None or self._is_closing or self._is_write_blocked:
            return
        is_content = dialogue.waits is Waits.NOTHING and dialogue.is_in_content
        if not is_content:
            self._content_until = None
        if dialogue.waits is Waits.TLS:
            self._arm(patience.tls_s + 1.0)
        elif dialogue.waits is not Waits.NOTHING:
            self._arm(patience.decide_s)
        elif is_content:
            now = self._loop.time()
            if self._content_until is None:
                self._content_until = now + patience.content_s
            self._arm(min(patience.block_s, max(0.0, self._content_until - now)))
        else:
            self._arm(patience.command_s)

    def _arm(self, seconds: float) -> None:
        self._deadline = self._loop.time() + seconds
        timer = self._timer
        if timer is None or timer.when() > self._deadline:
            if timer is not None:
                timer.cancel()
            self._timer = self._loop.call_at(self._deadline, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._loop.time() < self._deadline - 0.001:
            self._timer = self._loop.call_at(self._deadline, self._look)
            return
        dialogue, transport = self._dialogue, self._transport
        if dialogue is None or transport is None:
            return
        if self._is_closing or self._is_write_blocked or dialogue.waits is Waits.TLS:
            self.cut_off()
            return
        self._run(dialogue.time_out())
