"""Content and outcomes on disk."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from mailcore.envelope import ContentRef
from mailcore.outcome import Outcome


class SpoolReader(Protocol):
    """Content, as deliveries read it."""

    async def read_many(self, refs: Sequence[ContentRef]) -> Sequence[bytes | None]:
        """Return the bytes of each, None for what is missing or damaged."""
        ...


class SpoolWriter(Protocol):
    """Content, as intake writes it."""

    def append(self, contents: Sequence[bytes], *, is_urgent: bool = False) -> Sequence[ContentRef]:
        """Store each; return when all are durable. Raises StoreUnavailable: StoreFull below what
        must stay free, of which content that is all urgent may take a part."""
        ...

    def holding(self) -> AbstractContextManager[None]:
        """Let nobody delete what is appended inside before the end."""
        ...


class Journal(Protocol):
    """Outcomes on this node's disk until they are settled. Appends never block."""

    def dot(self, row_id: int, claim_no: int) -> None:
        """Note that the final dot of this row's transaction is about to be sent."""
        ...

    def outcome(self, outcome: Outcome) -> None:
        """Note an outcome in the turn that read its reply."""
        ...

    def forget(self, claims: Sequence[tuple[int, int]]) -> None:
        """Drop what has been settled: (row id, claim number) pairs."""
        ...


class Recovery(Protocol):
    """What a dead process's journal tells."""

    @property
    def outcomes(self) -> Sequence[Outcome]:
        """Outcomes that may not have been settled."""
        ...

    @property
    def dots(self) -> Sequence[tuple[int, int]]:
        """(row id, claim number) of transactions whose dot may have been sent."""
        ...


class JournalShelf(Protocol):
    """The journals on this node's disk. Plain, for threads."""

    def names(self) -> Sequence[str]:
        """Return those that tell of something, of living and of dead processes."""
        ...

    def is_alive(self, name: str) -> bool:
        """Whether the process that owns it lives (it holds its lock)."""
        ...

    def recover(self, name: str) -> Recovery | None:
        """Return what a dead process left; None if it lives or left nothing."""
        ...

    def discard(self, name: str) -> None:
        """Delete it, once it is settled."""
        ...
