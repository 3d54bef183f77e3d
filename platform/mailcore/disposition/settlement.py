"""What the ledger is told: rows that end, rows that wait, the events of both.

Gives    Finish, Defer, Settlement, Disposition
Raises   nothing
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mailcore.events import Event, encode_lines
from mailcore.outcome import Outcome, RowState, WaitReason


@dataclass(frozen=True, slots=True)
class Finish:
    """A row that ends: delivered, bounced, expired, stopped, purged. Never fenced."""

    row_id: int


@dataclass(frozen=True, slots=True)
class Defer:
    """A leased row that waits again, if the claim is still ours.

    `delay_s` is added to the database's time. `counts_attempt` is False for what was given back
    without a server's word.
    """

    row_id: int
    claim_no: int
    delay_s: float
    reason: WaitReason
    reply: str = ""
    pinned_source_id: int | None = None
    counts_attempt: bool = True
    state: RowState = RowState.WAITING


@dataclass(frozen=True, slots=True)
class Settlement:
    """One transaction: rows that end, rows that wait, and the outbox body that tells it."""

    finish: Sequence[Finish]
    defer: Sequence[Defer]
    events: bytes
    event_count: int


@dataclass(frozen=True, slots=True)
class Disposition:
    """What follows a batch. `strays` are outcomes whose row was not given: nothing was decided."""

    finish: tuple[Finish, ...]
    defer: tuple[Defer, ...]
    events: tuple[Event, ...]
    strays: tuple[Outcome, ...] = ()

    def settlement(self) -> Settlement:
        """Return it as the ledger takes it, in one transaction."""
        body = encode_lines(self.events) if self.events else b""
        return Settlement(self.finish, self.defer, body, len(self.events))
