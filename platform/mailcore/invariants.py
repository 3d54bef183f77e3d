"""What must always be true of the queue, and what it means when it is not.

Gives    Invariant, RULES (Rule: Severity, Mend, grace, words); Finding, Tally, mended_since;
         StateAge; Absent, Shelf, is_lost; orphans
Takes    what the ledger and a spool directory say
Raises   nothing
Follows  design.md section 2 (one owner per fact) and section 3 step 10

A grace time is what passes normally: as long as the chore that ends such a thing may take, several
times over. What is younger is no finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from mailcore.envelope import ContentRef
from mailcore.outcome import RowState
from mailcore.spool import Keeper, LiveSegment, SegmentInfo, keeper_of

MOST_EXAMPLES = 10
# Upkeep expires every five seconds, twenty thousand rows a turn: a million are over by then.
OVERDUE_S = 900.0
# The final dot may take ten minutes, for each of the few transactions that a session has begun.
LEASED_OVERDUE_S = 3600.0
# A node counts as lost after fifteen minutes of silence; then its rows are taken back in seconds.
DEAD_S = 900.0 + 120.0
ENDED_S = 120.0
# A journal that cannot be read is tried every five seconds; in an hour somebody has mended it.
UNBURIED_S = 3600.0
# Consumers are rung for every two seconds. ClickHouse may be away for minutes; who is stuck for
# longer, or waits for a transaction that nobody ends, needs a person.
CURSOR_S = 900.0
# Three sweeps beyond the time when content may go.
SWEEPS_S = 900.0


class Invariant(Enum):
    """What is wrong. The values are stored and are labels of metrics; they never change."""

    ROW_STATE = "row_state"
    NO_OWNER = "no_owner"
    DEAD_CLAIM = "dead_claim"
    NO_DUE_TIME = "no_due_time"
    NO_REASON = "no_reason"
    NO_EXPIRY = "no_expiry"
    EXPIRED = "expired"
    UNKNOWN_OVERDUE = "unknown_overdue"
    NO_LANE = "no_lane"
    LANE_COUNTS = "lane_counts"
    LANE_LATE = "lane_late"
    CURSOR_STUCK = "cursor_stuck"
    DEAD_PROCESS = "dead_process"
    RESTORED = "restored"
    CONTENT_LOST = "content_lost"
    CONTENT_ORPHANED = "content_orphaned"


class Severity(Enum):
    """`ERROR`: mail is stuck or lost until somebody looks. `WARNING`: something is late."""

    WARNING = "warning"
    ERROR = "error"


class Mend(Enum):
    """Which chore makes it right, without a chance of a second copy."""

    NOBODY = ""
    RECOUNT = "recount"
    EXPIRE = "expire"
    REAP = "reap"


@dataclass(frozen=True, slots=True)
class Rule:
    """What an invariant says. `grace_s` of it is normal; examples are ids of `of`."""

    severity: Severity
    mend: Mend
    grace_s: float
    words: str
    of: str = "rows"

    @property
    def is_of_node(self) -> bool:
        """Whether it is about a node's spool, and so for that node to look at."""
        return self.of in ("contents", "segments")


_W, _E = Severity.WARNING, Severity.ERROR
RULES: Mapping[Invariant, Rule] = {
    Invariant.ROW_STATE: Rule(
        _E, Mend.NOBODY, 0.0, "A row is in a state that this version does not know."
    ),
    Invariant.NO_OWNER: Rule(
        _E,
        Mend.NOBODY,
        0.0,
        "A leased row belongs to no process: nobody sends it or gives it back.",
    ),
    Invariant.DEAD_CLAIM: Rule(
        _E, Mend.REAP, DEAD_S, "A row is still leased by a process that died long ago."
    ),
    Invariant.NO_DUE_TIME: Rule(_E, Mend.NOBODY, 0.0, "A row waits and will never be due."),
    Invariant.NO_REASON: Rule(
        _W, Mend.NOBODY, 0.0, "A row waits for a reason that this version does not know."
    ),
    Invariant.NO_EXPIRY: Rule(_W, Mend.NOBODY, 0.0, "A row never expires."),
    Invariant.EXPIRED: Rule(
        _E, Mend.EXPIRE, OVERDUE_S, "A row has outlived its lifetime and was not ended."
    ),
    Invariant.UNKNOWN_OVERDUE: Rule(
        _E, Mend.EXPIRE, OVERDUE_S, "Nobody decided over a row of unknown outcome that is due."
    ),
    Invariant.NO_LANE: Rule(
        _E, Mend.NOBODY, 0.0, "A row is in no lane, or in one where nobody looks for it."
    ),
    Invariant.LANE_COUNTS: Rule(
        _W, Mend.RECOUNT, 0.0, "A lane counts other rows than it has.", "lanes"
    ),
    Invariant.LANE_LATE: Rule(
        _E, Mend.RECOUNT, 0.0, "A lane would be looked at later than its first row is due.", "lanes"
    ),
    Invariant.CURSOR_STUCK: Rule(
        _W, Mend.NOBODY, CURSOR_S, "A consumer of events does not move on.", "outbox batches"
    ),
    Invariant.DEAD_PROCESS: Rule(
        _E,
        Mend.NOBODY,
        UNBURIED_S,
        "A process died long ago and its journal was not settled.",
        "processes",
    ),
    Invariant.RESTORED: Rule(
        _E,
        Mend.NOBODY,
        0.0,
        "A backup was restored, and nobody decided over a row that may have been sent since.",
    ),
    Invariant.CONTENT_LOST: Rule(
        _E,
        Mend.NOBODY,
        0.0,
        "The content of a row is missing, or is not what its checksum says.",
        "contents",
    ),
    Invariant.CONTENT_ORPHANED: Rule(
        _W, Mend.NOBODY, SWEEPS_S, "Content that nobody needs was not deleted.", "segments"
    ),
}
OF_LEDGER = tuple(one for one in Invariant if not RULES[one].is_of_node)
OF_NODE = tuple(one for one in Invariant if RULES[one].is_of_node)


@dataclass(frozen=True, slots=True)
class Finding:
    """One invariant that does not hold. `count` is what stands, `mended` what was made right."""

    invariant: Invariant
    count: int
    examples: tuple[int, ...] = ()
    note: str = ""
    mended: int = 0

    def plus(self, other: Finding) -> Finding:
        """Return both as one; the first examples stay."""
        return replace(
            self,
            count=self.count + other.count,
            examples=(*self.examples, *other.examples)[:MOST_EXAMPLES],
        )


@dataclass(frozen=True, slots=True)
class StateAge:
    """Rows of one state and, while they wait, one reason: how many, and the age of the oldest."""

    state: int
    reason: str
    rows: int
    oldest_s: float
    row_id: int = 0


@dataclass(slots=True)
class Tally:
    """The sum of what the steps of a look found."""

    rows: int = 0
    found: dict[Invariant, Finding] = field(default_factory=dict)
    by_state: dict[tuple[int, str], StateAge] = field(default_factory=dict)

    def add(self, findings: Iterable[Finding]) -> None:
        """Add what a step found."""
        for one in findings:
            known = self.found.get(one.invariant)
            self.found[one.invariant] = one if known is None else known.plus(one)

    def add_ages(self, ages: Iterable[StateAge]) -> None:
        """Add what a step counted."""
        for one in ages:
            key = one.state, one.reason
            known = self.by_state.get(key, one)
            oldest = max(known, one, key=lambda age: age.oldest_s)
            rows = one.rows if known is one else known.rows + one.rows
            self.by_state[key] = replace(oldest, rows=rows)

    @property
    def findings(self) -> Sequence[Finding]:
        """What was found, in the order of the invariants."""
        return [self.found[one] for one in Invariant if one in self.found]

    @property
    def ages(self) -> Sequence[StateAge]:
        """The ages, in the order of states and reasons."""
        return [self.by_state[key] for key in sorted(self.by_state)]


def wanted_mends(findings: Iterable[Finding]) -> frozenset[Mend]:
    """Return what would make these right."""
    return frozenset(RULES[one.invariant].mend for one in findings) - {Mend.NOBODY}


def mended_since(before: Iterable[Finding], after: Iterable[Finding]) -> Sequence[Finding]:
    """Return what stands after mending, with what was made right.

    Only what a chore can mend counts as mended; the rest came or went by itself.
    """
    was = {one.invariant: one for one in before}
    now = {one.invariant: one for one in after}
    told = []
    for invariant in Invariant:
        first, last = was.get(invariant), now.get(invariant)
        if RULES[invariant].mend is Mend.NOBODY or first is None:
            told += [last] if last is not None else []
            continue
        left = last or Finding(invariant, 0, first.examples)
        told.append(replace(left, mended=max(0, first.count - left.count)))
    return told


def oldest_by_state(ages: Iterable[StateAge]) -> Mapping[RowState, float]:
    """Return the age of the oldest row in every state, 0 where there is none."""
    found = dict.fromkeys(RowState, 0.0)
    for one in ages:
        if one.state in set(RowState):
            state = RowState(one.state)
            found[state] = max(found[state], one.oldest_s)
    return found


# --- content --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Absent:
    """A row whose content was not on this node: perhaps it is on another."""

    row_id: int
    ref: ContentRef


@dataclass(frozen=True, slots=True)
class Shelf:
    """What another node noted of its spool; `age_s` ago, None if it never did."""

    node: str
    age_s: float | None
    segments: frozenset[int] = frozenset()


def is_lost(segment: int, *, others: Iterable[Shelf], doubted_s: float | None) -> bool:
    """Whether content in a segment that this node does not have is nowhere.

    `doubted_s` ago it was missed here already, None if this is the first time. Another node's word
    counts only if it is younger: what the row pointed at then was on a disk before.
    """
    shelves = list(others)
    if not shelves:
        return True
    return doubted_s is not None and all(
        shelf.age_s is not None and shelf.age_s < doubted_s and segment not in shelf.segments
        for shelf in shelves
    )


def orphans(
    segments: Iterable[SegmentInfo],
    live: Mapping[int, LiveSegment],
    *,
    grace_s: float,
    retention_s: float,
) -> Finding | None:
    """Return the segments that nothing keeps and that sweeps should have deleted by now."""
    late = [
        info
        for info in segments
        if info.age_s > grace_s + retention_s + SWEEPS_S
        and keeper_of(info, live.get(info.number), grace_s=grace_s, retention_s=retention_s)
        is Keeper.NOBODY
    ]
    if not late:
        return None
    size_mb = sum(info.size_bytes for info in late) / 2**20
    examples = tuple(info.number for info in late[:MOST_EXAMPLES])
    return Finding(Invariant.CONTENT_ORPHANED, len(late), examples, f"{size_mb:.1f} MB")
