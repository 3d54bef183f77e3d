"""Who must not be mailed, and until when.

Gives    StopCause; Stop; stop_for, divide; StopEntry (one to be added)
Takes    recipients and the entries found for them
Raises   nothing
Follows  design.md section 3 (accounting): a stopped recipient is accepted, then stopped
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TypeVar

T = TypeVar("T")
EVERYBODY = 0


class StopCause(Enum):
    """Why an address was put on a stop list."""

    HARD_BOUNCE = "hard_bounce"
    COMPLAINT = "complaint"
    UNSUBSCRIBED = "unsubscribed"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True)
class Stop:
    """One entry: of an account, or of the whole installation (account 0).

    `reason` is a StopCause's value; one of a newer version is kept as it is.
    """

    account_id: int
    reason: str
    detail: str = ""
    expires_at: datetime | None = None

    def applies(self, *, account_id: int, now: datetime) -> bool:
        """Whether it stops mail of this account at this time."""
        if self.expires_at is not None and self.expires_at <= now:
            return False
        return self.account_id in (EVERYBODY, account_id)


@dataclass(frozen=True, slots=True)
class StopEntry:
    """One entry to be added to the list of an account."""

    account_id: int
    recipient_hash: str
    recipient: str
    cause: StopCause
    detail: str = ""


def stop_for(entries: Iterable[Stop], *, account_id: int, now: datetime) -> Stop | None:
    """Return the entry that stops an address: the account's own before the installation's."""
    found = [entry for entry in entries if entry.applies(account_id=account_id, now=now)]
    return max(found, key=lambda entry: entry.account_id, default=None)


def divide(
    recipients: Sequence[T], stops: Mapping[str, Stop], *, key: Callable[[T], str]
) -> tuple[list[T], list[tuple[T, Stop]]]:
    """Return who may be mailed and who may not, each in order; `key` is what `stops` goes by."""
    if not stops:
        return list(recipients), []
    kept: list[T] = []
    stopped: list[tuple[T, Stop]] = []
    for recipient in recipients:
        stop = stops.get(key(recipient))
        if stop is None:
            kept.append(recipient)
        else:
            stopped.append((recipient, stop))
    return kept, stopped
