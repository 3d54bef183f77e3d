"""The sessions of a process: opened where queues want them and limits allow, each in its slot.

Gives    Staff: `man` (a turn), `renew` (a loop), `stop_opening`, `finish`, `sessions`; quietly,
         all_of
Takes    the feeds, who is told of outcomes, a way to start a chore
Raises   StoreUnavailable from `man`, when the shaper is away
Follows  design.md section 4: a slot belongs to an open connection, from connect to close
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Set
from functools import partial

from mailcore.bells import Path
from mailcore.outcome import MailClass
from mailcore.ports import StoreUnavailable
from workers.engines.context import DeliverPorts
from workers.engines.deliver import serve
from workers.engines.feed import Feed
from workers.engines.told import Told

SLOT_RENEW_S = 10.0
# A receiver that refused one more session is not asked for another for this long.
FULL_S = 5.0

log = logging.getLogger(__name__)


class Staff:
    """Who sends. Used on the engine's loop only."""

    def __init__(
        self,
        ports: DeliverPorts,
        feeds: Mapping[tuple[Path, MailClass], Feed],
        told: Told,
        spawn: Callable[[Coroutine[None, None, None]], None],
    ) -> None:
        self._ports = ports
        self._feeds = feeds
        self._told = told
        self._spawn = spawn
        self.sessions: dict[asyncio.Task[None], tuple[Path, str]] = {}

    async def man(self) -> None:
        """Open as many sessions as the queues want and the limits allow."""
        left = self._ports.limits.connections - len(self.sessions)
        asking, missing = [], 0
        for feed in self._feeds.values():
            wanted = self._wanted(feed)
            if wanted <= 0:
                continue
            count = min(wanted, left)
            missing += wanted - count
            if count > 0:
                asking.append(self._open(feed, count))
                left -= count
        if missing:
            self._close_idle()
        await all_of(asking)

    def _close_idle(self) -> None:
        """Other paths wait for a connection of this process: nobody may sit on one idle."""
        for feed in self._feeds.values():
            if feed.tasks and not feed.waiting:
                feed.is_wanted = True
                feed.arrived.set()

    def stop_opening(self) -> None:
        """Give up the sessions that are not open yet: their jobs are in the queues."""
        for feed in self._feeds.values():
            for task in feed.opening:
                task.cancel()

    async def finish(self, chores: Set[asyncio.Task[None]], *, within_s: float) -> None:
        """Wait until sessions and chores have ended; cut off the sessions that take too long.

        Whose final dot was sent and not answered is in the journal, which tells that nobody knows.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        while (waiting := [*self.sessions, *chores]) and (left := deadline - loop.time()) > 0:
            await asyncio.wait(waiting, timeout=min(left, 1.0))
        if cut := list(self.sessions):
            rows = sum(feed.on_the_wire for feed in self._feeds.values())
            log.warning("left on the wire", extra={"sessions": len(cut), "recipients": rows})
            for task in cut:
                task.cancel()
            await asyncio.wait(cut, timeout=1.0)

    async def renew(self) -> None:
        """Keep the slots for ever; tell the feeds whose connections others want."""
        while True:
            await asyncio.sleep(SLOT_RENEW_S)
            if not self.sessions:
                continue
            try:
                wanted = await self._ports.shaper.renew_slots(list(self.sessions.values()))
            except StoreUnavailable as exc:
                log.warning("slots not renewed", extra={"store": exc.store, "reason": exc.reason})
                continue
            for feed in self._feeds.values():
                feed.is_wanted = feed.path in wanted
                feed.arrived.set()

    def _wanted(self, feed: Feed) -> int:
        limits, now = self._ports.limits, self._ports.clock.monotonic()
        first = feed.first
        if feed.resting_until > now or feed.closing or first is None:
            return 0
        if feed.tasks and feed.full_until > now:
            return 0
        if first.not_before > now + limits.idle_s:
            # A session opened now would be idle, and closed, before its message may go.
            return 0
        most = limits.connections_per_site
        if feed.strategy.connections:
            most = min(most, feed.strategy.connections)
        wanted = math.ceil(len(feed.queue) / 4) + math.ceil(feed.waiting_apart / 4)
        return min(wanted, most) - len(feed.tasks)

    async def _open(self, feed: Feed, wanted: int) -> None:
        slots = await self._ports.shaper.open_slots(
            feed.path,
            wanted=wanted,
            limit=feed.strategy.connections,
            mail_class=feed.mail_class,
        )
        for slot in slots:
            task = asyncio.create_task(serve(feed, ports=self._ports, told=self._told))
            feed.tasks.add(task)
            self.sessions[task] = (feed.path, slot)
            task.add_done_callback(partial(self._ended, feed))

    def _ended(self, feed: Feed, task: asyncio.Task[None]) -> None:
        feed.tasks.discard(task)
        slot = self.sessions.pop(task)
        self._spawn(quietly(self._ports.shaper.close_slots([slot])))
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a session broke on our side", exc_info=error)


async def quietly(work: Awaitable[object]) -> None:
    """Await something that only helps; a store that is away must not stop deliveries."""
    try:
        await work
    except StoreUnavailable as exc:
        log.info("left undone", extra={"store": exc.store, "reason": exc.reason})


async def all_of(works: Iterable[Awaitable[None]]) -> None:
    """Await all, then raise what the first that failed did: none is left half done."""
    for end in await asyncio.gather(*works, return_exceptions=True):
        if end is not None:
            raise end
