"""What upkeep does with the segments of a spool, and how long their disk lasts.

Gives    CONTENT_GRACE_S, SHARED_HOME; SegmentInfo, LiveSegment, Inventory; SpoolMark, Doubt,
         doubt_of; Keeper, keeper_of, is_worth_compacting; SweepFigures, figures_of; DiskSpace,
         DiskSample, Forecast, forecast; DiskState, disk_state
Takes    what lies on the disk, what the ledger points at, the node's policy
Raises   nothing
Follows  design.md section 2 (content has no reference count) and section 3 step 10

Content is garbage when no row and no undo record points at it, the node's retention is over, and
the grace time has passed in which a row may still be on its way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

HOUR_S = 3600.0
# Accepting writes content before rows: what is younger may belong to a commit under way. A segment
# that was rewritten stays as long, for whoever read a row before its pointer moved.
CONTENT_GRACE_S = 900.0
# Whose sweeps a spool counts that nodes share; no node can be called so.
SHARED_HOME = "(shared)"
WARN_HOURS = 24.0
# A rewritten segment must give back more than it costs: at least half of it, at least this much,
# and more than a row's new version weighs in the ledger for each row that has to be moved.
MOST_LIVE_SHARE = 0.5
LEAST_FREED_BYTES = 64 * 1024
MOVED_ROW_BYTES = 1024
MOST_FOREIGN_NAMES = 20
# A slope over less than this says nothing; what is ten years away is not in sight.
LEAST_SPAN_S = 300.0
MOST_HOURS = 10 * 365 * 24.0


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """A segment file. `is_sealed` once no process may write to it any more; `age_s` counts from
    the last write, so what was acknowledged a moment ago is never old, and is negative for what a
    clock that was ahead wrote; `created_ms` is Unix time.
    """

    number: int
    size_bytes: int
    age_s: float
    is_sealed: bool
    created_ms: int = 0


@dataclass(frozen=True, slots=True)
class LiveSegment:
    """What the ledger still points at in a segment: contents, once each, and by whom."""

    number: int
    contents: int
    live_bytes: int
    rows: int
    undos: int


@dataclass(frozen=True, slots=True)
class Inventory:
    """A spool directory: our segments, oldest first, and the names of what is none of ours."""

    segments: Sequence[SegmentInfo]
    foreign: Sequence[str]


@dataclass(frozen=True, slots=True)
class SpoolMark:
    """Whose a spool directory is and how many sweeps it has seen: as a file in it says, and as the
    ledger does."""

    installation: str
    node: str = ""
    sweeps: int = 0


class Doubt(Enum):
    """Why nothing is deleted in a directory before a person has looked."""

    OTHERS = "others"  # marked by another installation, or we look into another database
    REWOUND = "rewound"  # the ledger is older than the directory: restored from a backup
    UNMARKED = "unmarked"  # no mark can be written


def doubt_of(on_disk: SpoolMark | None, in_ledger: SpoolMark) -> Doubt | None:
    """Return what speaks against deleting by what this ledger says. Read the disk first: what it
    tells of this node had been committed in the ledger before."""
    if on_disk is None:
        return None
    if on_disk.installation != in_ledger.installation:
        return Doubt.OTHERS
    if on_disk.node == in_ledger.node and on_disk.sweeps > in_ledger.sweeps:
        return Doubt.REWOUND
    return None


class Keeper(Enum):
    """What keeps a segment on the disk."""

    OPEN = "open"  # a process may still write to it
    ROWS = "rows"  # a recipient is still owed a result
    UNDO = "undo"  # a purge can still be undone
    GRACE = "grace"  # written or rewritten a moment ago
    RETENTION = "retention"  # the node's policy
    NOBODY = "nobody"


def keeper_of(
    info: SegmentInfo, live: LiveSegment | None, *, grace_s: float, retention_s: float
) -> Keeper:
    """Return what keeps this segment; NOBODY means that it may be deleted."""
    if not info.is_sealed:
        return Keeper.OPEN
    if live is not None and live.rows:
        return Keeper.ROWS
    if live is not None and live.undos:
        return Keeper.UNDO
    if info.age_s < grace_s:
        return Keeper.GRACE
    return Keeper.RETENTION if info.age_s < grace_s + retention_s else Keeper.NOBODY


def is_worth_compacting(
    info: SegmentInfo, live: LiveSegment, *, grace_s: float, retention_s: float
) -> bool:
    """Whether to rewrite what lives in this segment, so that the rest can go."""
    if not info.is_sealed or info.age_s < grace_s + retention_s:
        return False
    freed = info.size_bytes - live.live_bytes
    return (
        live.live_bytes <= info.size_bytes * MOST_LIVE_SHARE
        and freed >= LEAST_FREED_BYTES
        and freed >= (live.rows + live.undos) * MOVED_ROW_BYTES
    )


@dataclass(frozen=True, slots=True)
class SweepFigures:
    """What a sweep left on a node, and what it did there. `kept`: by keeper, [segments, bytes]."""

    segments: int
    size_bytes: int
    live_bytes: int
    kept: Mapping[str, tuple[int, int]]
    oldest_ms: int | None
    oldest_keeper: str
    foreign_count: int
    foreign_names: Sequence[str]
    retention_s: float = 0.0
    unreadable: int = 0
    deleted: int = 0
    deleted_bytes: int = 0
    compacted: int = 0
    copied_bytes: int = 0
    moved_rows: int = 0
    doubt: str = ""


def figures_of(
    inventory: Inventory,
    live: Mapping[int, LiveSegment],
    *,
    grace_s: float,
    retention_s: float,
) -> SweepFigures:
    """Count a directory: by what keeps each segment, and which is the oldest."""
    kept: dict[str, tuple[int, int]] = {}
    keepers: dict[int, Keeper] = {}
    for info in inventory.segments:
        keeper = keeper_of(info, live.get(info.number), grace_s=grace_s, retention_s=retention_s)
        keepers[info.number] = keeper
        count, size_bytes = kept.get(keeper.value, (0, 0))
        kept[keeper.value] = (count + 1, size_bytes + info.size_bytes)
    oldest = min(inventory.segments, key=lambda info: info.created_ms, default=None)
    return SweepFigures(
        segments=len(inventory.segments),
        size_bytes=sum(info.size_bytes for info in inventory.segments),
        live_bytes=sum(live[n].live_bytes for n in keepers if n in live),
        kept=kept,
        oldest_ms=None if oldest is None else oldest.created_ms,
        oldest_keeper="" if oldest is None else keepers[oldest.number].value,
        foreign_count=len(inventory.foreign),
        foreign_names=inventory.foreign[:MOST_FOREIGN_NAMES],
        retention_s=retention_s,
    )


# ── the disk ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """The file system below a spool; `total_inodes` 0 where it does not count them."""

    total_bytes: int
    free_bytes: int
    total_inodes: int
    free_inodes: int


@dataclass(frozen=True, slots=True)
class DiskSample:
    """What was free so many seconds ago."""

    age_s: float
    free_bytes: int
    free_inodes: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """How fast the disk fills (bytes a second, negative: it empties; None: too early to say), and
    in how many hours nothing is accepted any more (None: not in sight)."""

    growth: float | None
    hours_left: float | None


class DiskState(Enum):
    """How a node's disk stands; the worst that holds."""

    STOPPED = "stopped"  # below the stop threshold: nothing is accepted
    LOW = "low"  # below the warning threshold
    FILLING = "filling"  # full in less than a day
    OK = "ok"


def forecast(samples: Sequence[DiskSample], *, stop_bytes: int) -> Forecast:
    """Continue the last hour's line: until bytes reach the stop threshold, or inodes run out."""
    recent = [one for one in samples if one.age_s <= HOUR_S]
    if not recent:
        return Forecast(None, None)
    newest = min(recent, key=lambda one: one.age_s)
    is_full = newest.free_bytes < stop_bytes
    if max(one.age_s for one in recent) - newest.age_s < LEAST_SPAN_S:
        return Forecast(None, 0.0 if is_full else None)
    growth = -_slope([(-one.age_s, one.free_bytes) for one in recent])
    inodes = -_slope([(-one.age_s, one.free_inodes) for one in recent])
    hours = [
        max(0.0, left) / speed / HOUR_S
        for left, speed in (
            (newest.free_bytes - stop_bytes, growth),
            (newest.free_inodes, inodes),
        )
        if speed > 0
    ]
    soonest = 0.0 if is_full else min(hours, default=MOST_HOURS)
    return Forecast(growth, soonest if soonest < MOST_HOURS else None)


def _slope(points: Sequence[tuple[float, int]]) -> float:
    """Return the slope of the least-squares line."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    over = sum((x - mean_x) * (y - mean_y) for x, y in points)
    return over / sum((x - mean_x) ** 2 for x, _ in points)


def disk_state(
    free_bytes: int, *, warn_bytes: int, stop_bytes: int, hours_left: float | None
) -> DiskState:
    """Return how a disk stands that has so much free and fills in so many hours."""
    if free_bytes < stop_bytes:
        return DiskState.STOPPED
    if free_bytes < warn_bytes:
        return DiskState.LOW
    if hours_left is not None and hours_left < WARN_HOURS:
        return DiskState.FILLING
    return DiskState.OK
