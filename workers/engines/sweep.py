"""Upkeep of a node's spool: delete what nobody needs, rewrite what is mostly dead, watch the disk.

Gives    SpoolPorts; sweep_spool, measure_disk
Takes    SpoolPorts
Raises   StoreUnavailable
Follows  design.md section 2 (content) and section 3 step 10; mailcore.spool decides

A rewrite copies what lives, lets the old segment count as young again, and only then moves the
pointers; the copy's segment stays locked until they have moved, the old one is deleted by a later
sweep, once no pointer is left and the grace time is over. A crash at any step leaves rows with the
old pointer and the old segment, or with the new pointer and the new one; the next sweep goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mailcore.envelope import ContentRef
from mailcore.policy.model import Node
from mailcore.ports import PolicySource, SpoolLedger, SpoolShelf, StoreFull, StoreUnavailable
from mailcore.spool import (
    CONTENT_GRACE_S,
    SHARED_HOME,
    Doubt,
    Inventory,
    Keeper,
    LiveSegment,
    SegmentInfo,
    doubt_of,
    figures_of,
    forecast,
    is_worth_compacting,
    keeper_of,
)

# One turn's worth: a gigabyte read at most, and what is in memory at a time.
SEGMENTS_A_TURN = 16
BATCH_BYTES = 8 * 2**20
BATCH_CONTENTS = 2000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SpoolPorts:
    """What spool upkeep works with. `grace_s` must exceed what an accept may take. A spool that
    nodes share (`is_shared`) is swept by one of them."""

    node: str
    policy: PolicySource
    shelf: SpoolShelf
    ledger: SpoolLedger
    grace_s: float = CONTENT_GRACE_S
    is_shared: bool = False
    sweeping: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def home(self) -> str:
        """The name under which sweeps of this spool are counted."""
        return SHARED_HOME if self.is_shared else self.node

    def settings(self) -> Node:
        """Return the node's policy; the defaults for one that policy does not know."""
        return self.policy.current().nodes.get(self.node) or Node(0, self.node)


@dataclass(frozen=True, slots=True)
class _Compacted:
    """What rewriting came to."""

    segments: int = 0
    copied_bytes: int = 0
    moved_rows: int = 0
    unreadable: int = 0

    def __add__(self, other: _Compacted) -> _Compacted:
        return _Compacted(
            self.segments + other.segments,
            self.copied_bytes + other.copied_bytes,
            self.moved_rows + other.moved_rows,
            self.unreadable + other.unreadable,
        )


async def measure_disk(ports: SpoolPorts) -> None:
    """Note what is free, and when it will not be."""
    await asyncio.to_thread(_measure, ports)


async def sweep_spool(ports: SpoolPorts) -> int:
    """Delete and rewrite; return how many segments went. Nothing while an earlier call is at it."""
    if ports.sweeping.locked():
        return 0
    async with ports.sweeping:
        return await asyncio.to_thread(_sweep, ports)


def _measure(ports: SpoolPorts) -> None:
    settings, space = ports.settings(), ports.shelf.space()
    samples = ports.ledger.note_sample(ports.node, space)
    told = forecast(samples, stop_bytes=settings.spool_stop_bytes)
    ports.ledger.note_disk(
        ports.node,
        space,
        told,
        warn_bytes=settings.spool_warn_bytes,
        stop_bytes=settings.spool_stop_bytes,
    )


def _sweep(ports: SpoolPorts) -> int:
    if ports.is_shared and not ports.ledger.lead():
        return 0  # another node sweeps
    retention_s = ports.settings().spool_retention_s
    before = ports.shelf.inventory()
    live = _live(ports, before)
    doubt = _take_over(ports)
    unwanted = {
        info.number: info.size_bytes
        for info in before.segments
        if doubt is None and _keeper(ports, info, live, retention_s) is Keeper.NOBODY
    }
    for info in before.segments:
        if info.is_sealed and info.age_s < -ports.grace_s:
            # A clock was ahead when it was written. From now on its age counts.
            ports.shelf.spare(info.number, age_s=0.0)
    deleted = ports.shelf.delete(unwanted)
    compacted = _Compacted() if doubt else _compact(ports, before, live, retention_s)
    after = ports.shelf.inventory()
    figures = figures_of(
        after,
        _live(ports, after) if compacted.segments else live,
        grace_s=ports.grace_s,
        retention_s=retention_s,
    )
    ports.ledger.note_sweep(
        ports.node,
        replace(
            figures,
            deleted=len(deleted),
            deleted_bytes=sum(unwanted[number] for number in deleted),
            compacted=compacted.segments,
            copied_bytes=compacted.copied_bytes,
            moved_rows=compacted.moved_rows,
            unreadable=compacted.unreadable,
            doubt=doubt.value if doubt else "",
        ),
    )
    ports.ledger.prune()
    return len(deleted)


def _take_over(ports: SpoolPorts) -> Doubt | None:
    """Mark the directory as ours; return why that is in doubt, and then nothing may be deleted."""
    doubt = doubt_of(ports.shelf.mark(), ports.ledger.home(ports.home))
    if doubt is None:
        try:
            ports.shelf.write_mark(ports.ledger.count_sweep(ports.home))
        except StoreFull as exc:
            # The sweep is what makes room; an older mark says less and nothing wrong.
            log.warning("spool not marked", extra={"node": ports.node, "reason": exc.reason})
        except StoreUnavailable as exc:
            if exc.store != "spool":
                raise
            doubt = Doubt.UNMARKED
    if doubt is not None:
        log.error("nothing is swept", extra={"node": ports.node, "doubt": doubt.value})
    return doubt


def _live(ports: SpoolPorts, inventory: Inventory) -> Mapping[int, LiveSegment]:
    numbers = [info.number for info in inventory.segments]
    return {found.number: found for found in ports.ledger.live_segments(numbers)}


def _keeper(
    ports: SpoolPorts, info: SegmentInfo, live: Mapping[int, LiveSegment], retention_s: float
) -> Keeper:
    found = live.get(info.number)
    return keeper_of(info, found, grace_s=ports.grace_s, retention_s=retention_s)


# ── rewriting ─────────────────────────────────────────────────────────────────────────────────


def _compact(
    ports: SpoolPorts,
    inventory: Inventory,
    live: Mapping[int, LiveSegment],
    retention_s: float,
) -> _Compacted:
    """Rewrite the segments that pay, those that give back most first."""
    worth = [
        (info, live[info.number])
        for info in inventory.segments
        if info.number in live
        and is_worth_compacting(
            info, live[info.number], grace_s=ports.grace_s, retention_s=retention_s
        )
    ]
    worth.sort(key=lambda pair: pair[1].live_bytes - pair[0].size_bytes)
    done = _Compacted()
    try:
        for info, _found in worth[:SEGMENTS_A_TURN]:
            done += _rewrite(ports, info.number, retention_s)
    except StoreFull as exc:
        # What has been deleted makes room; the next sweep goes on.
        log.error("no room to compact", extra={"node": ports.node, "reason": exc.reason})
    finally:
        ports.shelf.seal()
    return done


def _rewrite(ports: SpoolPorts, number: int, retention_s: float) -> _Compacted:
    """Copy what lives in a segment and move what points at it."""
    done = _Compacted()
    for refs in _batches(ports.ledger.live_contents(number)):
        found = list(zip(refs, ports.shelf.read(refs), strict=True))
        whole = [(ref, content) for ref, content in found if content is not None]
        if len(whole) < len(found):
            done += _Compacted(unreadable=len(found) - len(whole))
        if not whole:
            continue
        copies = ports.shelf.copy([content for _, content in whole])
        ports.shelf.spare(number, age_s=retention_s)
        moves = list(zip((ref for ref, _ in whole), copies, strict=True))
        moved_rows = ports.ledger.move_contents(moves)
        copied_bytes = sum(len(content) for _, content in whole)
        done += _Compacted(copied_bytes=copied_bytes, moved_rows=moved_rows)
    if done.unreadable:
        extra = {"node": ports.node, "segment": number, "contents": done.unreadable}
        log.error("content in the spool cannot be read", extra=extra)
    return replace(done, segments=1) if done.copied_bytes else done


def _batches(refs: Sequence[ContentRef]) -> Iterator[Sequence[ContentRef]]:
    """Cut into what may be in memory at a time."""
    batch: list[ContentRef] = []
    size_bytes = 0
    for ref in refs:
        if batch and (size_bytes + ref.length > BATCH_BYTES or len(batch) == BATCH_CONTENTS):
            yield batch
            batch, size_bytes = [], 0
        batch.append(ref)
        size_bytes += ref.length
    if batch:
        yield batch
