"""The chores of the queue: expire, take back from the dead, prune.

Takes    UpkeepPorts
Gives    expire, unpark, reap, prune; each returns how much it did, and stops after one turn's
         worth
Raises   StoreUnavailable
Follows  design.md section 3, steps 4, 7 and 10
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from mailcore.disposition import plan, plan_expired, plan_unknown_due
from mailcore.envelope import QueuedRow
from mailcore.outcome import Outcome, RowState, Scope, Verdict
from mailcore.ports import Chores, DeadIncarnation, JournalShelf, StoreUnavailable
from mailcore.reply import SmtpReply
from mailcore.rowfilter import UNDO_KEPT_S
from workers.engines.context import DeliverPorts
from workers.engines.settle import Rules, settlement_of

ROWS_A_TURN = 1000
TURNS = 20
# On its own node a free journal lock proves a process dead; this only spares the newborn.
OWN_NODE_S = 1.0
NODE_LOST_AFTER_S = 900.0
# By how much a process may be wrong about the database's clock.
SKEW_MS = 2000
OUTBOX_KEPT_S = 86400.0
IDEMPOTENCY_KEPT_S = 86400.0 * 2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UpkeepPorts:
    """What the chores work with, beside the ports of delivery."""

    deliver: DeliverPorts
    chores: Chores
    journals: JournalShelf
    rules: Rules
    expiring: asyncio.Lock = field(default_factory=asyncio.Lock)
    reaping: asyncio.Lock = field(default_factory=asyncio.Lock)
    unparking: asyncio.Lock = field(default_factory=asyncio.Lock)


async def expire(ports: UpkeepPorts) -> int:
    """End rows past their lifetime; carry out the rule for unknown outcomes that are due.

    Does nothing while an earlier call is still at it.
    """
    if ports.expiring.locked():
        return 0
    async with ports.expiring:
        return await _expire(ports)


async def _expire(ports: UpkeepPorts) -> int:
    done = 0
    deliver = ports.deliver
    # In a ledger that was restored a moment ago, mail that was delivered seems to have expired.
    await deliver.lease.renew()
    # What a call before this one took and could not settle: nobody else would ever look at it.
    await asyncio.to_thread(ports.chores.release, deliver.lease.number)
    for _ in range(TURNS):
        number = deliver.lease.number
        rows = await asyncio.to_thread(
            ports.chores.select_expired, incarnation=number, limit=ROWS_A_TURN
        )
        if rows:
            ended = plan_expired(
                rows, rules=ports.rules.current(), node=deliver.node, now=deliver.clock.now()
            )
            await deliver.ledger.settle(settlement_of(ended))
        due = await asyncio.to_thread(
            ports.chores.unknown_due, incarnation=number, limit=ROWS_A_TURN
        )
        if due:
            decided = plan_unknown_due(
                due, rules=ports.rules.current(), node=deliver.node, now=deliver.clock.now()
            )
            await deliver.ledger.settle(settlement_of(decided))
        done += len(rows) + len(due)
        if not rows and not due:
            break
    return done


async def unpark(ports: UpkeepPorts) -> int:
    """Let the parked rows of domains that are held no more wait for routing.

    Does nothing while an earlier call is still at it.
    """
    if ports.unparking.locked():
        return 0
    async with ports.unparking:
        done = await asyncio.to_thread(ports.chores.unpark)
    if done:
        log.info("unparked", extra={"rows": done})
    return done


async def reap(ports: UpkeepPorts) -> int:
    """Take back what dead incarnations held.

    On this node: once the dead process's journal is ours and settled, exactly the rows with a
    `dot` and no outcome become unknown, all others are due now. Of another node: when it is lost.
    Does nothing while an earlier call is still at it.
    """
    if ports.reaping.locked():
        return 0
    async with ports.reaping:
        return await _reap(ports)


async def _reap(ports: UpkeepPorts) -> int:
    done = 0
    dead = await asyncio.to_thread(
        ports.chores.dead_incarnations,
        node=ports.deliver.node,
        lease_s=OWN_NODE_S,
        lost_after_s=NODE_LOST_AFTER_S,
    )
    for incarnation in dead:
        try:
            done += await _reap_one(ports, incarnation)
        except StoreUnavailable as exc:
            # A journal that cannot be read must not keep the others of the dead from their rows.
            log.error(
                "incarnation not reaped",
                extra={"incarnation": incarnation.number, "reason": str(exc)},
            )
    await _read_leftovers(ports, {incarnation.journal for incarnation in dead})
    return done


async def _read_leftovers(ports: UpkeepPorts, of_dead: Collection[str]) -> None:
    """Settle journals whose process is dead and buried: another node took its rows back while
    this one was away, or the ledger was restored and has never heard of it."""
    for name in await asyncio.to_thread(ports.journals.names):
        if name in of_dead:
            continue
        try:
            recovery = await asyncio.to_thread(ports.journals.recover, name)
            if recovery is None:
                continue
            await _settle_journal(ports, recovery.outcomes, recovery.dots)
            await asyncio.to_thread(ports.journals.discard, name)
        except StoreUnavailable as exc:
            log.error("journal not settled", extra={"journal": name, "reason": str(exc)})
        else:
            log.warning("journal of a buried process settled", extra={"journal": name})


async def _reap_one(ports: UpkeepPorts, incarnation: DeadIncarnation) -> int:
    if incarnation.node == ports.deliver.node:
        recovery = await asyncio.to_thread(ports.journals.recover, incarnation.journal)
        if recovery is None and await asyncio.to_thread(
            ports.journals.is_alive, incarnation.journal
        ):
            return 0
        if recovery is not None:
            await _settle_journal(ports, recovery.outcomes, recovery.dots)
    taken = await asyncio.to_thread(ports.chores.reclaim, incarnation.number)
    await asyncio.to_thread(ports.chores.bury, incarnation.number)
    if incarnation.node == ports.deliver.node:
        await asyncio.to_thread(ports.journals.discard, incarnation.journal)
    log.warning(
        "incarnation reaped",
        extra={
            "incarnation": incarnation.number,
            "life": incarnation.process,
            "rows": taken,
        },
    )
    return taken


async def _settle_journal(
    ports: UpkeepPorts, outcomes: Sequence[Outcome], dots: Sequence[tuple[int, int]]
) -> None:
    """Settle what a dead process knew, and what it cannot have known."""
    reply = SmtpReply.local(421, "4.4.2", "the worker died while the receiver held the message")
    known = {(outcome.row_id, outcome.claim_no) for outcome in outcomes}
    lost = [
        Outcome(row_id, claim_no, Verdict.UNKNOWN, Scope.MESSAGE, reply, "dot", after_dot=True)
        for row_id, claim_no in dots
        if (row_id, claim_no) not in known
    ]
    everything = [*outcomes, *lost]
    ledger = ports.deliver.ledger
    for start in range(0, len(everything), ROWS_A_TURN):
        part = everything[start : start + ROWS_A_TURN]
        rows = {row.id: row for row in await ledger.rows_by_id([o.row_id for o in part])}
        # A row claimed since is another process's, and one that is not leased was settled before
        # its journal forgot it; only a delivery still counts for them. In a restored ledger a
        # younger row may have the number.
        told = [
            outcome
            for outcome in part
            if outcome.row_id in rows
            and (
                (
                    rows[outcome.row_id].claim_no == outcome.claim_no
                    and rows[outcome.row_id].state is RowState.LEASED
                )
                or outcome.verdict is Verdict.DELIVERED
            )
            and not _is_of_another_row(outcome, rows[outcome.row_id])
        ]
        decided = plan(
            told,
            rows,
            rules=ports.rules.current(),
            node=ports.deliver.node,
            now=ports.deliver.clock.now(),
            draw=ports.deliver.draw,
        )
        await ledger.settle(settlement_of(decided))
        await _doubt(ports, [one for one in part if one.verdict is Verdict.UNKNOWN], rows)


async def _doubt(
    ports: UpkeepPorts, lost: Sequence[Outcome], rows: Mapping[int, QueuedRow]
) -> None:
    """Let rows be unknown that were taken back and that nobody has claimed since."""
    for outcome in lost:
        row = rows.get(outcome.row_id)
        is_ours = row is not None and row.claim_no == outcome.claim_no
        if row is None or not is_ours or row.state is not RowState.WAITING:
            continue
        decided = settlement_of(
            plan(
                [outcome],
                rows,
                rules=ports.rules.current(),
                node=ports.deliver.node,
                now=ports.deliver.clock.now(),
                draw=ports.deliver.draw,
            )
        )
        for defer in decided.defer:
            await asyncio.to_thread(
                ports.chores.doubt,
                defer,
                events=decided.events,
                event_count=decided.event_count,
            )


def _is_of_another_row(outcome: Outcome, row: QueuedRow) -> bool:
    """Whether an outcome is older than the row: nobody sends what is not yet accepted."""
    return 0 < outcome.occurred_ms < row.accepted_at.timestamp() * 1000 - SKEW_MS


async def prune(ports: UpkeepPorts) -> None:
    """Delete from the side tables what nobody asks for any more."""
    await asyncio.to_thread(ports.chores.prune_outbox, OUTBOX_KEPT_S)
    await asyncio.to_thread(ports.chores.prune_idempotency, IDEMPOTENCY_KEPT_S)
    await asyncio.to_thread(ports.chores.prune_routes)
    await asyncio.to_thread(ports.chores.prune_undo, UNDO_KEPT_S)
    await asyncio.to_thread(ports.chores.drop_empty_lanes)
