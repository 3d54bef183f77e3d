"""Who hears of what happened on a connection.

Gives    Told, implemented by the dispatcher of `engines.drain`
"""

from __future__ import annotations

from typing import Protocol

from mailcore.envelope import QueuedRow
from mailcore.outcome import Outcome
from mailcore.ports import TransportError
from workers.engines.feed import Feed, Job
from workers.engines.tls_memory import TlsMemory


class Told(Protocol):
    """Who hears of what happened; implemented by the dispatcher of `engines.drain`."""

    def outcome(self, outcome: Outcome, row: QueuedRow) -> None:
        """An attempt has a result: journal it and settle it."""
        ...

    def returned(self, row: QueuedRow, *, delay_s: float) -> None:
        """A row was not tried and goes back."""
        ...

    def is_held(self, feed: Feed, row: QueuedRow) -> bool:
        """Whether nothing may begin with this row on this path now."""
        ...

    def held_back(self, row: QueuedRow) -> None:
        """A row was not tried, because it is held."""
        ...

    async def made_7bit(self, feed: Feed, job: Job) -> bool:
        """Convert a job's message for a server that takes no 8-bit content; False if it cannot be
        and has its outcome."""
        ...

    def path_failed(self, feed: Feed, job: Job, error: TransportError) -> None:
        """No session could be opened for this job; the error's scope says who waits."""
        ...

    def path_works(self, feed: Feed) -> None:
        """A server of the path took a MAIL of ours, and said more than that."""
        ...

    @property
    def tls(self) -> TlsMemory:
        """What is remembered of TLS that failed."""
        ...
