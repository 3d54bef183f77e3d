"""What a port may raise."""

from __future__ import annotations

from mailcore.errors import PostfleetError
from mailcore.outcome import Scope
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
    had theirs before; None for the others. Subclasses name the kind.
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


class ConnectFailed(TransportError):
    """No connection, or no session: refused, unreachable, a 4yz/5yz greeting or EHLO."""


class TimedOut(TransportError):
    """A deadline passed."""


class TlsFailed(TransportError):
    """STARTTLS was refused or the handshake failed."""


class Disconnected(TransportError):
    """The peer closed or reset the connection, or spoke no SMTP."""


class Withheld(TransportError):
    """We stopped before the final dot, because our claim may no longer be ours."""
