"""The life of this process in the ledger: its incarnation and the lease on the rows it holds.

Gives    Lease: `open`, `keep` (a loop), `holds`, `close`
Raises   StoreUnavailable from `open` only; later the lease just runs out
Follows  design.md section 3, step 4: one heartbeat row per incarnation, renewed every 5 s, valid
         60 s, judged on the monotonic clock just before the final dot

A lease that ran out or was taken away is not repaired: rows claimed under it are given up, and a
new incarnation is opened. The number of the old one never comes back.
"""

from __future__ import annotations

import asyncio
import logging

from mailcore.ports import Clock, Ledger, StoreUnavailable

RENEW_S = 5.0
VALID_S = 60.0
# The dot must be written well before another process may judge the lease expired.
MARGIN_S = 2.0

log = logging.getLogger(__name__)


class Lease:
    """What lets this process hold rows. `number` is the incarnation, 0 before `open`."""

    def __init__(
        self, ledger: Ledger, clock: Clock, *, node: str, process: str, journal: str
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._node = node
        self._process = process
        self._journal = journal
        self._valid_until = 0.0
        self._renewing = asyncio.Lock()
        self.number = 0

    def holds(self, number: int | None = None) -> bool:
        """Whether rows leased under this number (None: the present one) are surely still ours."""
        if number is not None and number != self.number:
            return False
        return self._clock.monotonic() < self._valid_until - MARGIN_S

    async def open(self) -> None:
        """Open an incarnation."""
        asked_at = self._clock.monotonic()
        self.number = await self._ledger.register(
            node=self._node, process=self._process, journal=self._journal
        )
        self._valid_until = asked_at + VALID_S

    async def renew(self) -> None:
        """Renew once; open a new incarnation if this one was declared dead, once for two calls."""
        async with self._renewing:
            await self._renew()

    async def _renew(self) -> None:
        asked_at = self._clock.monotonic()
        try:
            if await self._ledger.heartbeat(self.number):
                self._valid_until = asked_at + VALID_S
                return
            self._valid_until = 0.0
            log.error("lease lost", extra={"incarnation": self.number})
            await self.open()
        except StoreUnavailable as exc:
            log.warning("lease not renewed", extra={"reason": exc.reason})

    async def keep(self) -> None:
        """Renew for ever."""
        while True:
            await asyncio.sleep(RENEW_S)
            await self.renew()

    async def close(self) -> None:
        """End the incarnation, once it holds no rows."""
        self._valid_until = 0.0
        await self._ledger.retire(self.number)
