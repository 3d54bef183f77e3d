"""What holds mean for the rows that a process has claimed already.

Takes    ports, the settler, a way to start a chore
Gives    Holding: of_row, of_source, take_out, give_back
Raises   nothing
Follows  design.md section 3, step 5: holds are looked at again before each transaction, and what
         is now held is given back; a message that has begun is finished
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from mailcore.envelope import QueuedRow
from mailcore.policy.model import Source
from mailcore.routing.held import hold_on
from workers.engines.context import DeliverPorts
from workers.engines.feed import Feed
from workers.engines.settle import Settler


class Holding:
    """One process's view. Used on the engine's loop only."""

    def __init__(
        self,
        ports: DeliverPorts,
        settler: Settler,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._ports = ports
        self._settler = settler
        self._spawn = spawn
        self._seen = ports.holds.current()
        self._to_park: list[QueuedRow] = []

    def of_source(self, source: Source) -> bool:
        """Whether nothing may be sent from a source now."""
        holds = self._ports.holds.current()
        return holds.of_source(source.id, node=source.node) is not None

    def of_row(self, row: QueuedRow, source: Source) -> bool:
        """Whether nothing may begin with a row from this source now."""
        policy, holds = self._ports.policy.current(), self._ports.holds.current()
        return hold_on(row, policy, holds, source=source) is not None

    def take_out(self, feeds: Iterable[Feed]) -> list[QueuedRow]:
        """When other holds are in force than at the last look, take what they cover out of the
        queues."""
        holds = self._ports.holds.current()
        if holds is self._seen:
            return []
        self._seen = holds
        return [
            job.row
            for feed in feeds
            for job in feed.jobs
            if self.of_row(job.row, feed.source) and feed.take_out(job)
        ]

    def give_back(self, row: QueuedRow) -> None:
        """Let a held row go: of a held domain, it is parked; else it waits in its lane."""
        if self._ports.holds.current().of_domain(row.recipient.domain) is None:
            self._settler.give_back([row])
            return
        self._to_park.append(row)
        if len(self._to_park) == 1:
            self._spawn(self._park())

    async def _park(self) -> None:
        """Park in one statement what was given back in one turn of the loop."""
        rows, self._to_park = self._to_park, []
        await self._settler.park(rows)
