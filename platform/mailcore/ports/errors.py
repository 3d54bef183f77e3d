"""What a port may raise."""

from __future__ import annotations

from mailcore.errors import PostfleetError
from mailcore.outcome import Scope, SessionInfo, TlsResult
from mailcore.reply import SmtpReply
from mailcore.transaction import RecipientReply


class StoreUnavailable(PostfleetError):
    """One of our own stores (`store` names it) cannot be used now; trying later may help."""

    def __init__(self, store: str, reason: str) -> None:
        super().__init__(f"{store}: {reason}")
        self.store = store
        self.reason = reason


class StoreFull(StoreUnavailable):
    """The store works and has no room: an operator must make some before trying helps."""


class TransportError(PostfleetError):
    """The line to a mail server failed before it gave its verdict.

    `scope` says who has to wait, `stage` where it happened, `after_dot` whether the whole content
    had been sent. `decided` holds, in the order of the forward-paths, the replies of those who
    had theirs before; None for the others. `session` is what is known of the line, for who tells
    of it. Subclasses name the kind.
    """

    def __init__(
        self,
        reply: SmtpReply,
        *,
        scope: Scope,
        stage: str,
        after_dot: bool = False,
        decided: tuple[RecipientReply | None, ...] = (),
    ) -> None:
        super().__init__(f"{stage}: {reply}")
        self.reply = reply
        self.scope = scope
        self.stage = stage
        self.after_dot = after_dot
        self.decided = decided
        self.session = SessionInfo()


class ConnectFailed(TransportError):
    """No connection, or no session: refused, unreachable, a 4yz/5yz greeting or EHLO."""


class TimedOut(TransportError):
    """A deadline passed."""


class TlsFailed(TransportError):
    """STARTTLS was refused, the handshake failed, or the server is not who it should be.

    `result` is the RFC 8460 word for it.
    """

    def __init__(
        self,
        reply: SmtpReply,
        *,
        scope: Scope,
        stage: str,
        after_dot: bool = False,
        decided: tuple[RecipientReply | None, ...] = (),
        result: TlsResult = TlsResult.NOT_OFFERED,
    ) -> None:
        super().__init__(reply, scope=scope, stage=stage, after_dot=after_dot, decided=decided)
        self.result = result


class Disconnected(TransportError):
    """The peer closed or reset the connection, or spoke no SMTP."""


class Withheld(TransportError):
    """We stopped before the final dot, because our claim may no longer be ours."""


class Undeliverable(TransportError):
    """No waiting helps this mail: it bounces with this reply."""


class LoopsBack(Undeliverable):
    """Whoever takes this domain's mail is we ourselves."""
