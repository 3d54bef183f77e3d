"""Settle outcomes in batches of the process: decide, commit, then forget.

Takes    outcomes with their rows, and rows to give back
Gives    Settler: `add`, `give_back`, `park`, `flush`, `run` (a loop)
Raises   nothing: with PostgreSQL away a batch stays journaled and is tried again until it commits
Follows  style.md rule 7: the journal forgets an outcome only when its settle has committed

At most 500 outcomes or 20 ms make a batch, and one batch is in flight. What is decided is decided
once: a batch that must be tried again is the same bytes, so that a repeat changes no count.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mailcore.bells import ApplyBell
from mailcore.disposition import (
    Defer,
    Disposition,
    Rulebook,
    Settlement,
    plan,
    plan_expired,
    plan_purged,
    plan_stopped,
    write_rulebook,
)
from mailcore.envelope import QueuedRow
from mailcore.events import encode_lines
from mailcore.outcome import Outcome, WaitReason
from mailcore.policy.model import PolicySnapshot
from mailcore.ports import PolicySource, StoreUnavailable
from mailcore.reply import SmtpReply
from mailcore.routing.site import IspIndex
from workers.engines.context import DeliverPorts
from workers.engines.reply_log import log_reply

BATCH = 500
GATHER_S = 0.020
RETRY_FIRST_S = 0.2
RETRY_MOST_S = 5.0
# A bell for the statistics a second is enough: the consumer reads all there is.
APPLY_BELL_S = 1.0
CONSUMERS = ("statistics", "stop_list", "dsn")

log = logging.getLogger(__name__)


class Rules:
    """What is made ready of the snapshot in force, once per snapshot."""

    def __init__(self, policy: PolicySource) -> None:
        self._policy = policy
        self._made: tuple[PolicySnapshot, Rulebook, IspIndex] | None = None

    def current(self) -> Rulebook:
        """Return the rules that decide over outcomes."""
        return self._make()[1]

    def isps(self) -> IspIndex:
        """Return the ISPs by domain and MX suffix."""
        return self._make()[2]

    def _make(self) -> tuple[PolicySnapshot, Rulebook, IspIndex]:
        policy = self._policy.current()
        if self._made is None or self._made[0] is not policy:
            self._made = policy, write_rulebook(policy), IspIndex(policy.isps.values())
        return self._made


def settlement_of(*dispositions: Disposition, returns: Sequence[Defer] = ()) -> Settlement:
    """Return what the ledger is told of decisions, in one transaction."""
    events = [event for each in dispositions for event in each.events]
    return Settlement(
        finish=[finish for each in dispositions for finish in each.finish],
        defer=[*(defer for each in dispositions for defer in each.defer), *returns],
        events=encode_lines(events) if events else b"",
        event_count=len(events),
    )


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction settles."""

    outcomes: Sequence[tuple[Outcome, QueuedRow]]
    returns: Sequence[Defer]
    expired: Sequence[QueuedRow]
    stopped: Sequence[tuple[QueuedRow, SmtpReply]]
    purged: Sequence[tuple[QueuedRow, SmtpReply]]

    def __len__(self) -> int:
        ended = len(self.expired) + len(self.stopped) + len(self.purged)
        return len(self.outcomes) + len(self.returns) + ended


class Settler:
    """Gathers outcomes of this process and settles them in the order they came."""

    def __init__(self, ports: DeliverPorts) -> None:
        self._ports = ports
        self._outcomes: list[tuple[Outcome, QueuedRow]] = []
        self._returns: list[Defer] = []
        self._expired: list[QueuedRow] = []
        self._stopped: list[tuple[QueuedRow, SmtpReply]] = []
        self._purged: list[tuple[QueuedRow, SmtpReply]] = []
        self._arrived = asyncio.Event()
        self._settled = asyncio.Condition()
        self._busy = 0
        self.rules = Rules(ports.policy)
        self._rang_at = float("-inf")
        self.is_stuck = False

    @property
    def pending(self) -> int:
        """How many rows still have to be settled."""
        return sum(len(waiting) for waiting in self._waiting()) + self._busy

    def add(self, outcome: Outcome, row: QueuedRow) -> None:
        """Take an outcome that is journaled; called in the turn that read the reply."""
        log_reply(outcome, row, policy=self._ports.policy.current(), node=self._ports.node)
        self._outcomes.append((outcome, row))
        self._arrived.set()

    def expire(self, row: QueuedRow) -> None:
        """End a claimed row whose lifetime is over."""
        self._expired.append(row)
        self._arrived.set()

    def stop(self, row: QueuedRow, reply: SmtpReply) -> None:
        """End a claimed row whose recipient may not be mailed; `reply` says why."""
        self._stopped.append((row, reply))
        self._arrived.set()

    def purge(self, row: QueuedRow, reply: SmtpReply) -> None:
        """Destroy a claimed row because an operator's rule says so; `reply` names the rule."""
        self._purged.append((row, reply))
        self._arrived.set()

    def give_back(self, rows: Sequence[QueuedRow], *, delay_s: float = 0.0) -> None:
        """Return rows nobody spoke about; their attempt does not count."""
        self._returns.extend(
            Defer(
                row_id=row.id,
                claim_no=row.claim_no,
                delay_s=delay_s,
                reason=WaitReason.RETURNED,
                pinned_source_id=row.pinned_source_id,
                counts_attempt=False,
            )
            for row in rows
        )
        self._arrived.set()

    async def park(self, rows: Sequence[QueuedRow]) -> None:
        """Let claimed rows of held recipient domains wait until their hold is over."""
        try:
            parked = await self._ports.ledger.park(rows)
        except StoreUnavailable as exc:
            log.warning("not parked", extra={"store": exc.store, "reason": exc.reason})
            parked = 0
        if parked < len(rows):
            # Some are held no more, and this process will hear of it in a moment. Of those that
            # are parked this says nothing: they are not leased.
            self.give_back(rows, delay_s=RETRY_FIRST_S)

    async def flush(self) -> None:
        """Return when all that was added so far is settled."""
        async with self._settled:
            await self._settled.wait_for(lambda: self.pending == 0)

    async def run(self) -> None:
        """Settle for ever."""
        while True:
            await self._arrived.wait()
            if self.pending < BATCH:
                await asyncio.sleep(GATHER_S)
            await self._settle_one_batch()

    async def _settle_one_batch(self) -> None:
        batch = Batch(
            self._outcomes[:BATCH],
            self._returns[:BATCH],
            self._expired[:BATCH],
            self._stopped[:BATCH],
            self._purged[:BATCH],
        )
        for waiting in self._waiting():
            del waiting[:BATCH]
        if not any(self._waiting()):
            self._arrived.clear()
        self._busy = len(batch)
        settlement = self._decide(batch)
        await self._commit(settlement)
        claims = [(outcome.row_id, outcome.claim_no) for outcome, _ in batch.outcomes]
        claims += [(defer.row_id, defer.claim_no) for defer in batch.returns]
        self._ports.journal.forget(claims)
        async with self._settled:
            self._busy = 0
            self._settled.notify_all()
        if settlement.event_count:
            await self._ring_apply()

    def _waiting(self) -> tuple[list[Any], ...]:
        return self._outcomes, self._returns, self._expired, self._stopped, self._purged

    def _decide(self, batch: Batch) -> Settlement:
        rules, node, now = self.rules.current(), self._ports.node, self._ports.clock.now()
        decided = plan(
            [outcome for outcome, _ in batch.outcomes],
            {row.id: row for _, row in batch.outcomes},
            rules=rules,
            node=node,
            now=now,
            draw=self._ports.draw,
        )
        ended = plan_expired(batch.expired, rules=rules, node=node, now=now)
        stopped = [
            plan_stopped([row], reply=reply, rules=rules, node=node, now=now)
            for row, reply in batch.stopped
        ]
        purged = [
            plan_purged([row], reply=reply, rules=rules, node=node, now=now)
            for row, reply in batch.purged
        ]
        return settlement_of(decided, ended, *stopped, *purged, returns=batch.returns)

    async def _commit(self, settlement: Settlement) -> None:
        delay_s = RETRY_FIRST_S
        while True:
            try:
                await self._ports.ledger.settle(settlement)
            except StoreUnavailable as exc:
                self.is_stuck = True
                log.warning("settle waits", extra={"store": exc.store, "reason": exc.reason})
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, RETRY_MOST_S)
            else:
                self.is_stuck = False
                return

    async def _ring_apply(self) -> None:
        now = self._ports.clock.monotonic()
        if now - self._rang_at < APPLY_BELL_S:
            return
        self._rang_at = now
        try:
            for consumer in CONSUMERS:
                await self._ports.bells.apply(ApplyBell(consumer))
        except StoreUnavailable as exc:
            # Beat rings the same bell; nothing depends on this one.
            log.info("bell not rung", extra={"store": exc.store, "reason": exc.reason})
