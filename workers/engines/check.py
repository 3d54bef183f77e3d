"""Look whether the queue is as it must be; mend what is safe, note and raise the rest.

Gives    CheckPorts; check_ledger (one process of the fleet), check_contents (each node its own)
Takes    CheckPorts
Raises   StoreUnavailable; nothing is noted then, and what was mended stays mended
Follows  design.md section 3 step 10; mailcore.invariants says what is wrong and who mends it

What mends are the chores themselves: the recount of lanes, expire and reap, each with its own
guards. So nothing here can send a second copy or end a row that another process holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mailcore.invariants import (
    RULES,
    Finding,
    Mend,
    Severity,
    Tally,
    mended_since,
    wanted_mends,
)
from mailcore.ports import CheckedContents, QueueChecker
from workers.engines.sweep import SpoolPorts
from workers.engines.upkeep import UpkeepPorts, expire, reap

# Beat rings more often: who was away when the hour was full looks soon after.
CONTENTS_EVERY_S = 3600.0
_SLACK_S = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CheckPorts:
    """What the checker works with, beside the ports of the chores that mend."""

    checker: QueueChecker
    upkeep: UpkeepPorts
    spool: SpoolPorts
    on_ledger: asyncio.Lock = field(default_factory=asyncio.Lock)
    on_contents: asyncio.Lock = field(default_factory=asyncio.Lock)


async def check_ledger(ports: CheckPorts) -> Sequence[Finding]:
    """Look at the ledger; mend, look again at what was to be mended; note what stands.

    Does nothing while an earlier call, or another process, is at it.
    """
    if ports.on_ledger.locked():
        return []
    async with ports.on_ledger:
        if not await asyncio.to_thread(ports.checker.lead):
            return []
        try:
            return await _check_ledger(ports)
        finally:
            await asyncio.to_thread(ports.checker.release)


async def _check_ledger(ports: CheckPorts) -> Sequence[Finding]:
    began = ports.upkeep.deliver.clock.monotonic()
    tally = await asyncio.to_thread(ports.checker.look_at_ledger)
    findings: Sequence[Finding] = tally.findings
    if mends := wanted_mends(findings):
        tally, findings = await _mend(ports, mends, findings)
    took_s = ports.upkeep.deliver.clock.monotonic() - began
    await asyncio.to_thread(ports.checker.note_ledger, findings, tally, took_s=took_s)
    _tell(findings, "")
    return findings


async def _mend(
    ports: CheckPorts, mends: frozenset[Mend], before: Sequence[Finding]
) -> tuple[Tally, Sequence[Finding]]:
    chores: Mapping[Mend, Callable[[UpkeepPorts], Awaitable[object]]] = {
        Mend.RECOUNT: _recount,
        Mend.REAP: reap,
        Mend.EXPIRE: expire,
    }
    for mend, chore in chores.items():
        if mend in mends:
            await chore(ports.upkeep)
    tally = await asyncio.to_thread(ports.checker.look_at_ledger)
    return tally, mended_since(before, tally.findings)


async def _recount(ports: UpkeepPorts) -> int:
    return await asyncio.to_thread(ports.chores.recount_lanes)


async def check_contents(ports: CheckPorts) -> Sequence[Finding]:
    """Read a sample of this node's content back, once an hour; note what stands.

    Does nothing before the hour is over, or while an earlier call is at it.
    """
    if ports.on_contents.locked():
        return []
    async with ports.on_contents:
        since_s = await asyncio.to_thread(ports.checker.since_contents)
        if since_s is not None and since_s < CONTENTS_EVERY_S - _SLACK_S:
            return []
        began = ports.upkeep.deliver.clock.monotonic()
        look = await asyncio.to_thread(_look_at_contents, ports)
        took_s = ports.upkeep.deliver.clock.monotonic() - began
        await asyncio.to_thread(ports.checker.note_contents, look, took_s=took_s)
        _tell(look.findings, ports.spool.node)
        return look.findings


def _look_at_contents(ports: CheckPorts) -> CheckedContents:
    return ports.checker.look_at_contents(
        is_whole=False,
        grace_s=ports.spool.grace_s,
        retention_s=ports.spool.settings().spool_retention_s,
    )


def _tell(findings: Sequence[Finding], node: str) -> None:
    for one in findings:
        rule = RULES[one.invariant]
        is_error = rule.severity is Severity.ERROR and one.count > 0
        log.log(
            logging.ERROR if is_error else logging.WARNING,
            "the queue is not as it must be" if one.count else "the queue was mended",
            extra={
                "invariant": one.invariant.value,
                "node": node,
                rule.of.replace(" ", "_"): one.count,
                "mended": one.mended,
                "examples": list(one.examples),
                "note": one.note,
            },
        )
