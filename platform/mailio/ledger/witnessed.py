"""What one process has seen of the ledger, beside what its node wrote down.

Gives    Witnessed: check, note, seen
Takes    a libpq URL, the node's Witness
Raises   StoreUnavailable
"""

from __future__ import annotations

from dataclasses import replace

from mailio.ledger.pool import AsyncSession
from mailio.ledger.restore import Restores
from mailio.witness import Seen, Witness


class Witnessed:
    """The memory of one process. `check` is awaited on its loop, `note` and `seen` are plain."""

    def __init__(self, dsn: str, witness: Witness) -> None:
        self._witness = witness
        self._restores = Restores(dsn)
        self._thread = AsyncSession(self._restores.session)
        self._last = Seen("", "")

    @property
    def seen(self) -> tuple[str, int]:
        """The witness's name and the last heartbeat that the ledger counted for this process."""
        return self._last.name, self._last.beats

    async def check(self) -> None:
        """Compare the ledger with what was seen of it; what is older is set aside, which takes a
        while."""
        await self._thread.run(self._check)

    def note(self, *, beats: int, at_s: float) -> None:
        """Remember that the ledger has counted another heartbeat."""
        self._last = replace(self._last, beats=beats, at_s=at_s)
        self._witness.note(self._last)

    def close(self) -> None:
        """Close the connection."""
        self._thread.close()

    def _check(self) -> None:
        installation = self._restores.installation()
        written = self._witness.read(installation)
        last = self._last if self._last.name == written.name else Seen("", "")
        newest = max(written, last, key=lambda seen: seen.beats)
        self._last = replace(newest, beats=self._restores.check(newest))
