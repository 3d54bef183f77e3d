"""A transaction on the wire, how long each step may take, and what a server did not bear.

Gives    Timeouts, ChunkingMemory; SmtpTransaction (a `mailcore.ports.WireTransaction`); KINDS (what
         a fault is raised as); fail_future; described (a session as events tell it), blames_tls,
         tls_broken
Follows  RFC 5321 §4.5.3.2 (timeouts)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from mailcore.outcome import Scope, SessionInfo, TlsResult
from mailcore.policy.words import TlsMode
from mailcore.ports import (
    ConnectFailed,
    Disconnected,
    Endpoint,
    RecipientReply,
    TlsFailed,
    TransportError,
    WireMessage,
)
from mailcore.reply import SmtpReply
from mailcore.transaction import FaultKind, Stage, Transaction

KINDS: dict[FaultKind, type[TransportError]] = {
    FaultKind.REFUSED: ConnectFailed,
    FaultKind.TLS: TlsFailed,
    FaultKind.BROKEN: Disconnected,
}


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait for each thing; those of a dialogue are RFC 5321's."""

    connect_s: float = 30.0
    tls_s: float = 60.0
    greeting_s: float = 300.0
    mail_s: float = 300.0
    rcpt_s: float = 300.0
    data_s: float = 120.0
    block_s: float = 180.0
    dot_s: float = 600.0
    quit_s: float = 5.0

    def of_stages(self) -> dict[Stage, float]:
        """Return how long the answer to each step may take."""
        return {
            Stage.BANNER: self.greeting_s,
            Stage.EHLO: self.greeting_s,
            Stage.HELO: self.greeting_s,
            Stage.STARTTLS: self.greeting_s,
            Stage.AUTH: self.greeting_s,
            Stage.MAIL: self.mail_s,
            Stage.RCPT: self.rcpt_s,
            Stage.DATA: self.data_s,
            Stage.DOT: self.dot_s,
            Stage.LONE_DOT: self.dot_s,
            Stage.RSET: self.mail_s,
        }


class ChunkingMemory:
    """Servers that offer CHUNKING and did not take a chunk: they are sent DATA from then on.

    It lasts as long as the process, which is soon enough for a server that was mended.
    """

    MOST = 10_000

    def __init__(self) -> None:
        self._broken: dict[str, None] = {}

    def allows(self, address: str) -> bool:
        """Whether a chunk may be tried with the server at this address."""
        return address not in self._broken

    def note_broken(self, address: str) -> None:
        """The server did not take a chunk; the oldest memory makes room."""
        if len(self._broken) >= self.MOST:
            del self._broken[next(iter(self._broken))]
        self._broken[address] = None


class SmtpTransaction(Transaction):
    """A transaction under way, as `mailcore.ports.WireTransaction`."""

    __slots__ = ("_began", "_ended", "_loop", "before_dot", "content_sent", "replies")

    def __init__(
        self,
        message: WireMessage,
        before_dot: Callable[[Sequence[int]], bool],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(message)
        self.before_dot = before_dot
        self.content_sent: asyncio.Future[None] = loop.create_future()
        self.replies: asyncio.Future[tuple[RecipientReply, ...]] = loop.create_future()
        self._loop = loop
        self._began = loop.time()
        self._ended = 0.0

    @property
    def dialogue_ms(self) -> int:
        """Time from MAIL to the last reply."""
        return round(((self._ended or self._loop.time()) - self._began) * 1000)

    def note_content_sent(self) -> None:
        """The dot is written, or never will be."""
        if not self.content_sent.done():
            self.content_sent.set_result(None)

    def finish(self) -> None:
        """Every recipient has its reply: hand them over."""
        self._ended = self._loop.time()
        self.note_content_sent()
        if not self.replies.done():
            self.replies.set_result(cast(tuple[RecipientReply, ...], tuple(self.verdicts)))

    def fail(self, error: TransportError) -> None:
        """The line is lost for this transaction."""
        self._ended = self._loop.time()
        self.note_content_sent()
        fail_future(self.replies, error)


def fail_future(
    future: asyncio.Future[tuple[RecipientReply, ...]] | asyncio.Future[bool],
    error: TransportError,
) -> None:
    if not future.done():
        future.set_exception(error)
        # Looking at it once tells asyncio that it was seen: nobody has to wait for it.
        future.exception()


def described(
    endpoint: Endpoint, transport: asyncio.Transport | None = None, *, offers_dsn: bool = False
) -> SessionInfo:
    """Return what a session is like."""
    tls = transport.get_extra_info("ssl_object") if transport is not None else None
    cipher = tls.cipher() if tls is not None else None
    own = transport.get_extra_info("sockname") if transport is not None else None
    return SessionInfo(
        mx_host=endpoint.host,
        mx_address=endpoint.address,
        source_address=endpoint.source_address or (own[0] if own else ""),
        ehlo_name=endpoint.ehlo_name,
        tls_version=(tls.version() or "") if tls is not None else "",
        tls_cipher=cipher[0] if cipher else "",
        offers_dsn=offers_dsn,
    )


def blames_tls(error: TransportError, endpoint: Endpoint, *, is_under_tls: bool) -> bool:
    """Whether an opening broke where TLS was tried and might be done without: in clear it may
    work (RFC 7435)."""
    if endpoint.tls is not TlsMode.OPPORTUNISTIC:
        return False
    # A server that has no time for us now says so under TLS as well.
    is_busy = isinstance(error, ConnectFailed) and not error.reply.is_permanent
    is_first_word = is_under_tls and error.stage == Stage.EHLO.told and not is_busy
    return error.stage == Stage.STARTTLS.told or is_first_word


def tls_broken(reply: SmtpReply, stage: str) -> TlsFailed:
    """Return the end of an opening over TLS that began and led nowhere."""
    result = TlsResult.VALIDATION_FAILURE
    return TlsFailed(reply, scope=Scope.HOST, stage=stage, result=result)
