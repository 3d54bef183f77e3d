"""Mailboxes of ours, what was read in them, and what is known of a recipient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol
from uuid import UUID

from mailcore.errors import PostfleetError
from mailcore.events import Event
from mailcore.policy.model import Mailbox


class MailboxError(PostfleetError):
    """A mailbox that cannot be read now; the message says why, without any secret."""


@dataclass(frozen=True, slots=True)
class MailboxItem:
    """One message as a session lists it: `number` is good for this session, `uidl` for ever."""

    number: int
    uidl: str


class MailboxSession(Protocol):
    """An open mailbox. Blocks; raises MailboxError. What was deleted is gone after `commit`."""

    def listing(self) -> Iterator[MailboxItem]:
        """Yield what is in it, in order, without holding all of it. Read it to its end."""
        ...

    def fetch(self, numbers: Sequence[int], *, most_bytes: int) -> Iterator[bytes | None]:
        """Yield these messages in order, of a larger one its beginning; None for what the server
        will not give. Read it to its end."""
        ...

    def delete(self, numbers: Sequence[int]) -> None:
        """Mark messages as deleted."""
        ...

    def commit(self) -> None:
        """End the session; returns when the server said that the marked ones are gone."""
        ...

    def abort(self) -> None:
        """Drop the line: nothing is deleted."""
        ...


class MailboxReader(Protocol):
    """The way to mailboxes."""

    def open(self, mailbox: Mailbox, password: bytes) -> MailboxSession:
        """Log in. Raises MailboxError."""
        ...


class SeenState(Enum):
    """What was done about a message that is still in its mailbox."""

    DONE = "done"
    DUE = "due"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class Seen:
    """A message that was read before. `tries` counts how often nothing was known of it."""

    state: SeenState
    tries: int


@dataclass(frozen=True, slots=True)
class InboundRecord:
    """What one message came to. With `postponed_s` it is read again after that time."""

    uidl: str
    kind: str
    fate: str
    postponed_s: float | None = None


class InboundLedger(Protocol):
    """The bookkeeping of mailboxes, beside the outbox. Plain, for threads.

    Raises StoreUnavailable.
    """

    def begin(self, mailbox_id: int, *, node: str) -> bool:
        """Take a mailbox that is due; False if it is not, or if another process reads it."""
        ...

    def end(self, mailbox_id: int, *, next_in_s: float, read: int, error: str) -> None:
        """Give it back, due again after `next_in_s`; an error is shown to operators."""
        ...

    def abandon(self, mailbox_id: int) -> None:
        """Let go of it without a word; never raises."""
        ...

    def seen(self, mailbox_id: int, uidls: Sequence[str]) -> Mapping[str, Seen]:
        """Return those that were read before."""
        ...

    def record(
        self, mailbox_id: int, records: Sequence[InboundRecord], events: Sequence[Event]
    ) -> int:
        """Note messages, count them, and put their events in the outbox, in one transaction.

        An event that was told before, by whatever message, is not told again. Return how many
        are new.
        """
        ...

    def forget(self, mailbox_id: int, uidls: Sequence[str]) -> None:
        """Drop what is noted of messages that are deleted."""
        ...

    def prune(self) -> None:
        """Drop what is too old to come again."""
        ...


class Traces(Protocol):
    """What is known of recipients whose rows are gone. Plain. Raises StoreUnavailable."""

    def of_messages(self, message_ids: Sequence[UUID]) -> Sequence[Mapping[str, object]]:
        """Return events of these messages as rows of `events.Event`, those not applied too."""
        ...
