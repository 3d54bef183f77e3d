"""The checker of the queue, as upkeep uses it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mailcore.invariants import Absent, Finding, Tally


@dataclass(frozen=True, slots=True)
class CheckedContents:
    """What reading content back came to. `absent`: not here, and not known to be nowhere."""

    contents: int
    is_whole: bool
    findings: Sequence[Finding]
    segments: Sequence[int]
    absent: Sequence[Absent] = ()


class QueueChecker(Protocol):
    """Looks and notes, mends nothing. Plain, for threads. Raises StoreUnavailable."""

    def lead(self) -> bool:
        """Take the lock of the one who checks the ledger; False if another process does."""
        ...

    def release(self) -> None:
        """Give the lock back."""
        ...

    def look_at_ledger(self) -> Tally:
        """Look at all rows, lanes, cursors and processes."""
        ...

    def note_ledger(self, findings: Sequence[Finding], tally: Tally, *, took_s: float) -> None:
        """Note what that came to; what is not among the findings has ended."""
        ...

    def since_contents(self) -> float | None:
        """Return how long ago this node's content was looked at, None if never."""
        ...

    def look_at_contents(
        self, *, is_whole: bool, grace_s: float, retention_s: float
    ) -> CheckedContents:
        """Read content of this node back, all or a sample, and look for what nobody needs."""
        ...

    def note_contents(self, look: CheckedContents, *, took_s: float) -> None:
        """Note what that came to."""
        ...
