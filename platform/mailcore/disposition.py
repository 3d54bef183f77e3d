"""Decide what follows one attempt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mailcore.outcome import RowState, WaitReason


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
