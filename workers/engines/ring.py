"""Ring for lanes with rows due: choose the source of each, gather paths, publish bells.

Takes    due lanes, the policy, holds, what rests, how many bells are out
Gives    Ringer: `run` (a loop), `wake`, `ring_once`
Raises   nothing: a store that is away is asked again at the next turn
Follows  design.md section 3, step 3

It runs in every delivery process, and one of them leads (a session lock in PostgreSQL), so that
mail is rung for even when beat and every other process are gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from mailcore.bells import MAX_PATHS, DrainBell, Path, RouteBell
from mailcore.holds import HoldSet
from mailcore.outcome import MailClass
from mailcore.policy.model import PolicySnapshot
from mailcore.ports import DueLane, StoreUnavailable
from mailcore.routing.held import held_senders, sources_left
from workers.engines.context import DeliverPorts

TURN_S = 0.5
# There were more lanes than a turn looks at.
MORE_S = 0.1
# A process that does not lead looks rarely whether it may.
FOLLOW_S = 2.0
LANES_A_TURN = 5000
ROWS_A_BELL = 1000
MOST_BELLS = 4
ROUTE_BELL_S = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, order=True)
class Chime:
    """What a path is rung for."""

    node: str
    mail_class: MailClass
    is_retry: bool


class Ringer:
    """One process's ringer; harmless while another leads."""

    def __init__(self, ports: DeliverPorts, *, lanes_a_turn: int = LANES_A_TURN) -> None:
        self._ports = ports
        self._lanes_a_turn = lanes_a_turn
        self._woken = asyncio.Event()
        self._route_rang_at = float("-inf")
        self._skip = 0

    def wake(self) -> None:
        """Somebody accepted mail: look at once. Call it on the loop."""
        self._woken.set()

    async def run(self) -> None:
        """Ring for ever."""
        while True:
            pause = TURN_S
            try:
                if await self._ports.ledger.try_lead("ringer"):
                    await self.ring_once()
                    pause = MORE_S if self._skip else TURN_S
                else:
                    pause = FOLLOW_S
            except StoreUnavailable as exc:
                log.warning("not rung", extra={"store": exc.store, "reason": exc.reason})
            try:
                async with asyncio.timeout(pause):
                    await self._woken.wait()
                # Let the accepts of a few milliseconds share one turn.
                await asyncio.sleep(0.005)
            except TimeoutError:
                pass
            self._woken.clear()

    async def ring_once(self) -> int:
        """Ring for everything that is due now; return how many bells were published."""
        ports = self._ports
        now = ports.clock.monotonic()
        due = now - self._route_rang_at >= ROUTE_BELL_S
        if due and await ports.ledger.unrouted_domains(limit=1):
            self._route_rang_at = now
            await ports.bells.route(RouteBell())
        policy, holds = ports.policy.current(), ports.holds.current()
        if holds.everything is not None:
            return 0
        lanes = await ports.ledger.due_lanes(
            limit=self._lanes_a_turn,
            skip=self._skip,
            held=holds.lanes(held_senders=held_senders(policy, holds)),
        )
        # Lanes that nobody can serve now stay due, and are the oldest: the others come after them.
        self._skip = self._skip + len(lanes) if len(lanes) == self._lanes_a_turn else 0
        if not lanes:
            return 0
        wanted = plan_paths(lanes, policy, holds)
        resting = set(await ports.shaper.cooling(sorted({path for path, _ in wanted})))
        rung = 0
        for chime in sorted({chime for _, chime in wanted}):
            asked = [
                (path, count)
                for (path, its), count in wanted.items()
                if its == chime and path not in resting
            ]
            if not asked:
                continue
            paths = sorted(await ports.shaper.take_bells(asked, mail_class=chime.mail_class))
            for start in range(0, len(paths), MAX_PATHS):
                part = tuple(paths[start : start + MAX_PATHS])
                await self._publish(DrainBell(chime.node, chime.mail_class, part, chime.is_retry))
                rung += 1
        return rung

    async def _publish(self, bell: DrainBell) -> None:
        try:
            await self._ports.bells.drain(bell)
        except StoreUnavailable:
            # Counted but not rung: uncount, or the path stays silent until the count expires.
            await self._ports.shaper.drop_bells(bell.paths, mail_class=bell.mail_class)
            raise


def plan_paths(
    lanes: Sequence[DueLane], policy: PolicySnapshot, holds: HoldSet
) -> dict[tuple[Path, Chime], int]:
    """Return the paths that may serve these lanes, with the bells each can use."""
    rows: dict[tuple[Path, Chime], int] = {}
    for lane in lanes:
        sender = policy.senders.get(lane.sender_id)
        if sender is None:
            continue
        is_retry = lane.has_retries and lane.mail_class is MailClass.MAIN
        for candidate in sources_left(policy, holds, sender.pool_id):
            chime = Chime(candidate.node, lane.mail_class, is_retry)
            key = Path(candidate.source_id, lane.site), chime
            rows[key] = rows.get(key, 0) + lane.waiting
    return {key: min(1 + count // ROWS_A_BELL, MOST_BELLS) for key, count in rows.items()}
