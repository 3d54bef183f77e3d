"""Events until every consumer has them, and for good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from mailcore.envelope import ContentRef, Submission
from mailcore.stoplist import StopEntry


@dataclass(frozen=True, slots=True)
class OutboxCursor:
    """How far a consumer has read: (transaction, row). Transactions commit out of order, so a
    row alone is no cursor."""

    xid: int
    row_id: int


@dataclass(frozen=True, slots=True)
class OutboxBatch:
    """One outbox row: the events of one accept or settle."""

    cursor: OutboxCursor
    event_count: int
    body: bytes


class Outbox(Protocol):
    """Events until every consumer has them. Plain, for tasks. Raises StoreUnavailable."""

    def lead(self, consumer: str) -> bool:
        """Take the consumer's lock on this session; False if another process applies."""
        ...

    def release(self, consumer: str) -> None:
        """Give the lock back."""
        ...

    def read(self, consumer: str, *, limit: int) -> Sequence[OutboxBatch]:
        """Return batches after the consumer's cursor whose order is settled."""
        ...

    def advance(self, consumer: str, cursor: OutboxCursor) -> None:
        """Move the cursor."""
        ...

    def refuse(self, consumer: str, batch: OutboxBatch, *, reason: str) -> None:
        """Set a batch aside that this consumer can never read; does not move the cursor."""
        ...


class Statistics(Protocol):
    """The events for good, and what is computed from them. Raises StoreUnavailable."""

    def insert(self, bodies: Sequence[bytes]) -> int:
        """Store the events of outbox bodies; a repeat changes no count. Return how many."""
        ...

    def touch(self, minutes: Sequence[int]) -> None:
        """Note that the roll-ups of these minutes (Unix time // 60) must be computed again."""
        ...

    def touched(self) -> Sequence[int]:
        """Return the minutes that were touched and not recomputed since."""
        ...

    def recompute(self, minutes: Sequence[int]) -> None:
        """Compute the roll-ups of these minutes again from the events."""
        ...

    def trace(self, message_id: UUID) -> Sequence[dict[str, object]]:
        """Return the distinct events of a message, oldest first, as rows of `events.Event`."""
        ...


class StopLists(Protocol):
    """Who must not be mailed, as events add to it. Raises StoreUnavailable."""

    def add(self, entries: Sequence[StopEntry]) -> int:
        """Add those that are not there yet; return how many that were."""
        ...


@dataclass(frozen=True, slots=True)
class KeyedMail:
    """A message of our own, and the key under which it is queued once. `lifetime_s` and
    `policy_revision` as in a Plan."""

    key: str
    submission: Submission
    lifetime_s: float
    policy_revision: int


class ReportDoor(Protocol):
    """What reports are made from, and where they go. Plain, for tasks. Raises StoreUnavailable."""

    def new_id(self) -> UUID:
        """Return the id of a message to come."""
        ...

    def is_known(self, key: str) -> bool:
        """Whether a message was queued under this key."""
        ...

    def content(self, ref: ContentRef) -> bytes | None:
        """Return it while the spool of this node has it."""
        ...

    def submit(self, mails: Sequence[KeyedMail]) -> None:
        """Queue those whose key is free, all together or none."""
        ...
