"""Reckon what became of a campaign, recipient by recipient, from what was seen on both sides.

Gives    reckon() -> Reckoning: its line for a program, its table for people, its faults, is_good
Takes    Evidence: what was offered and accepted; the lab's facts and reports; what our statistics
         and our queue say; whom a kill may have hit
Raises   nothing
Follows  design.md section 3 (accepted = delivered + bounced + expired + stopped + purged + queued)

Each recipient has one end. The queue comes first (it is not over), then what the receivers saw
(a message that was taken is delivered, whatever we think of it), then what only we can know.
Our statistics must tell the same end, once; where the sender could not know (the reply was lost, or
it was killed), one end of whatever kind. Else a recipient is *misreported*.
A copy beyond the first is *repeated* when the receiver lost its own reply to an earlier one, which
a provider of the lab does on purpose, and *duplicated* otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from lab.report import aligned

OURS = ("expired", "stopped", "purged")
REPORTS = ("late_bounced", "complained")
ENDS = ("delivered", "bounced", *OURS)
# What Evidence.told is asked for.
TOLD = ("deferred", *ENDS, *REPORTS)
# How many recipients are named where something is off.
NAMED = 5


class End(Enum):
    """What became of a recipient."""

    DELIVERED = "delivered"
    BOUNCED = "bounced"
    EXPIRED = "expired"
    STOPPED = "stopped"
    PURGED = "purged"
    QUEUED = "queued"
    UNACCOUNTED = "unaccounted"


@dataclass(frozen=True, slots=True)
class Offered:
    """A recipient the API accepted: whose, and when it was offered (wall clock)."""

    isp: str
    at: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of a campaign."""

    offered: Mapping[str, Offered]
    facts: Sequence[Mapping[str, Any]]  # GET /ids of the lab
    reports: Sequence[Mapping[str, Any]]  # GET /late and GET /complaints
    told: Sequence[tuple[str, str, int]]  # our statistics: kind, recipient, distinct events
    queued: frozenset[str]
    on_the_wire: frozenset[str] | None = None  # None: nobody was killed


@dataclass(slots=True)
class _Seen:
    """What the receivers saw of a recipient."""

    copies: int = 0
    lost_replies: int = 0
    refusals: int = 0
    first_at: float = 0.0


@dataclass(slots=True)
class _Sums:
    """One line of the table."""

    ends: Counter[End] = field(default_factory=Counter)
    accepted: int = 0
    deferred: int = 0
    reports: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    duplicated: int = 0
    times_s: list[float] = field(default_factory=list)

    def cells(self) -> list[str]:
        """Return the figures in the order of the head."""
        ended = sum(self.ends[End(kind)] for kind in OURS)
        figures = (
            self.accepted,
            self.ends[End.DELIVERED],
            self.ends[End.BOUNCED],
            self.deferred,
            *(self.reports[kind] for kind in REPORTS),
            ended,
            self.ends[End.QUEUED],
            self.repeated + self.duplicated,
        )
        return [str(one) for one in figures] + [_seconds(self.times_s, at) for at in (0.5, 0.95)]


# Two lines, so that a table fits a terminal of 80 columns.
_HEAD = [
    ["", "", "", "", "", "late", "com-", "ended", "", "extra", "median", "95 %"],
    [
        *("ISP", "accepted", "delivered", "bounced", "deferred", "bounced", "plained"),
        *("by us", "queued", "copies", "s", "s"),
    ],
]
# Columns that are left out where they are nothing but zeros, as they should be.
_RARE = (7, 8)


@dataclass(frozen=True, slots=True)
class Reckoning:
    """The account of a campaign."""

    by_isp: Mapping[str, _Sums]
    total: _Sums
    lost_replies: int
    reports: int
    counted_once: int
    on_the_wire: int | None
    odd: Mapping[str, Sequence[str]]  # whom each thing that may be off concerns

    @property
    def is_good(self) -> bool:
        """Whether each message came to one end and our statistics say so, each report counts once,
        and no more copies are duplicated than were on the wire of a process that was killed."""
        return not self.faults

    @property
    def faults(self) -> list[str]:
        """What is not as it must be, in words, with some of the recipients."""
        found = dict(self.odd)
        if self.total.duplicated <= (self.on_the_wire or 0):
            found.pop("duplicated", None)
        return [f"{len(whom)} {what}: {_some(whom)}" for what, whom in found.items() if whom]

    @property
    def line(self) -> str:
        """The line a program reads."""
        wire = "" if self.on_the_wire is None else f" on_the_wire={self.on_the_wire}"
        ends = " ".join(f"{end.value}={self.total.ends[end]}" for end in End)
        return (
            f"accepted={self.total.accepted} {ends}"
            f" misreported={len(self.odd['misreported'])}"
            f" duplicated={self.total.duplicated}{wire}"
            f" repeated={self.total.repeated} lost_replies={self.lost_replies}"
            f" reports={self.reports} counted_once={self.counted_once}"
        )

    @property
    def demand(self) -> str:
        """What `is_good` compares, in words."""
        twice = "none duplicated" if self.on_the_wire is None else "duplicated <= on_the_wire"
        return (
            f"required: nothing queued, unaccounted or misreported, {twice},"
            " repeated <= lost_replies,"
            " counted_once = reports"
        )

    def table(self) -> str:
        """Return a line for each ISP, and their sums."""
        rows = [[isp, *sums.cells()] for isp, sums in self.by_isp.items()]
        total = ["total", *self.total.cells()]
        shown = [n for n, cell in enumerate(total) if n not in _RARE or cell != "0"]
        kept = [[row[n] for n in shown] for row in [*_HEAD, *rows, total]]
        return aligned(kept, gap=" ")


def reckon(evidence: Evidence, *, isps: Iterable[str]) -> Reckoning:
    """Return the account, its lines in the order of `isps`."""
    by_isp = {isp: _Sums() for isp in isps}
    total = _Sums()
    odd: dict[str, list[str]] = {what: [] for what in _ODD}
    seen = _seen(evidence)
    told = {(kind, recipient): count for kind, recipient, count in evidence.told}
    for recipient, offered in evidence.offered.items():
        one = seen.get(recipient, _Seen())
        end = _end(recipient, one, evidence, told)
        repeated = min(max(one.copies - 1, 0), one.lost_replies)
        _note_odd(odd, recipient, end, copies=one.copies - 1 - repeated)
        is_unsure = one.lost_replies > 0 or recipient in (evidence.on_the_wire or ())
        if end not in _OPEN and not _is_told(recipient, end, told, is_unsure=is_unsure):
            odd["misreported"].append(recipient)
        for sums in (by_isp[offered.isp], total):
            sums.accepted += 1
            sums.ends[end] += 1
            sums.deferred += ("deferred", recipient) in told
            sums.repeated += repeated
            sums.duplicated += max(one.copies - 1, 0) - repeated
            if one.copies:
                sums.times_s.append(max(0.0, one.first_at - offered.at))
    produced = {(str(row["kind"]), str(row["recipient"])) for row in evidence.reports}
    produced = {one for one in produced if one[1] in evidence.offered}
    for kind, recipient in produced:
        for sums in (by_isp[evidence.offered[recipient].isp], total):
            sums.reports[kind] += 1
    counted = {key: count for key, count in told.items() if key[0] in REPORTS}
    once = sum(counted.get(one) == 1 for one in produced)
    odd[_NOT_ONCE] += sorted(one[1] for one in produced if counted.get(one) != 1)
    odd[_NOT_SENT] += sorted(one[1] for one in counted if one not in produced)
    wire = evidence.on_the_wire
    return Reckoning(
        by_isp=by_isp,
        total=total,
        lost_replies=sum(one.lost_replies for one in seen.values()),
        reports=len(produced),
        counted_once=once,
        on_the_wire=None if wire is None else len(wire & set(evidence.offered)),
        odd=odd,
    )


_OPEN = (End.QUEUED, End.UNACCOUNTED)
_NOT_ONCE = "reports not counted once"
_NOT_SENT = "reports counted that no receiver wrote"
_ODD = (*(end.value for end in _OPEN), "misreported", "duplicated", _NOT_ONCE, _NOT_SENT)


def _note_odd(odd: Mapping[str, list[str]], recipient: str, end: End, *, copies: int) -> None:
    if end in _OPEN:
        odd[end.value].append(recipient)
    odd["duplicated"].extend([recipient] * copies)


def _is_told(
    recipient: str, end: End, told: Mapping[tuple[str, str], int], *, is_unsure: bool
) -> bool:
    """Whether our statistics tell this end and no other, once."""
    counts = {kind: told[kind, recipient] for kind in ENDS if (kind, recipient) in told}
    return len(counts) == 1 if is_unsure else counts == {end.value: 1}


def _some(recipients: Sequence[str]) -> str:
    shown = list(dict.fromkeys(recipients))
    return ", ".join(shown[:NAMED]) + (" …" if len(shown) > NAMED else "")


def _seen(evidence: Evidence) -> dict[str, _Seen]:
    seen: dict[str, _Seen] = {}
    for fact in evidence.facts:
        recipient = fact["recipient"]
        if recipient not in evidence.offered:
            continue
        one = seen.setdefault(recipient, _Seen())
        if fact["fate"] == "accepted":
            if not one.copies:
                one.first_at = float(fact["at"])
            one.copies += 1
            one.lost_replies += fact["reply"] is None
        one.refusals += fact["fate"] == "refused"
    return seen


def _end(
    recipient: str, seen: _Seen, evidence: Evidence, told: Mapping[tuple[str, str], int]
) -> End:
    if recipient in evidence.queued:
        return End.QUEUED
    if seen.copies:
        return End.DELIVERED
    if seen.refusals:
        return End.BOUNCED
    ended = (End(kind) for kind in OURS if (kind, recipient) in told)
    return next(ended, End.UNACCOUNTED)


def _seconds(times: list[float], level: float) -> str:
    """Return the nearest rank, or a dash where nothing was delivered."""
    if not times:
        return "-"
    ranked = sorted(times)
    return f"{ranked[min(len(ranked) - 1, int(level * len(ranked)))]:.1f}"
