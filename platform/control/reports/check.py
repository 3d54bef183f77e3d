"""What the checker of the queue noted.

Gives    standing, ended, checks, ages; FindingRow, CheckRow
Takes    nothing: it is the whole installation's
Raises   StoreUnavailable when PostgreSQL does not answer in time

Upkeep looks and notes (mailcore.invariants); here is only read what it wrote, a few rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from control.reports.spool import read_rows
from mailcore.invariants import RULES, Invariant, Rule, StateAge

# Beat rings every ten minutes for the ledger, and content is due each hour.
SILENT_AFTER_S = {"ledger": 1800.0, "content": 3 * 3600.0}
MOST_ENDED = 20

_FINDINGS = """
SELECT invariant, node, first_seen_at, last_seen_at, ended_at, count, mended, examples, note
  FROM queue_finding
"""
_STANDING = f"{_FINDINGS} WHERE ended_at IS NULL ORDER BY first_seen_at, id"
_ENDED = f"{_FINDINGS} WHERE ended_at IS NOT NULL ORDER BY ended_at DESC, id DESC LIMIT %s"
_CHECKS = """
SELECT part, node, ended_at, extract(epoch FROM statement_timestamp() - ended_at)::float8, took_s,
       looked_at, is_whole
  FROM queue_check
 WHERE node = '' OR node IN (SELECT name FROM nodes_node) ORDER BY part DESC, node
"""
_AGES = "SELECT state, reason, rows, oldest_s, row_id FROM queue_age ORDER BY state, oldest_s DESC"


@dataclass(frozen=True, slots=True)
class FindingRow:
    """The columns of queue_finding."""

    name: str
    node: str
    first_seen_at: datetime
    last_seen_at: datetime
    ended_at: datetime | None
    count: int
    mended: int
    examples: Sequence[int]
    note: str

    @property
    def rule(self) -> Rule | None:
        """What its invariant says; None for one that only another version knows."""
        known = self.name in {one.value for one in Invariant}
        return RULES[Invariant(self.name)] if known else None


@dataclass(frozen=True, slots=True)
class CheckRow:
    """When a part of the check last ran, and how far it looked."""

    part: str
    node: str
    ended_at: datetime
    age_s: float
    took_s: float
    looked_at: int
    is_whole: bool

    @property
    def is_silent(self) -> bool:
        """Whether it should have run again by now."""
        return self.age_s > SILENT_AFTER_S.get(self.part, float("inf"))


def standing() -> Sequence[FindingRow]:
    """Return what stands, the oldest first."""
    return [_finding(row) for row in read_rows(_STANDING)]


def ended() -> Sequence[FindingRow]:
    """Return what ended or was mended last."""
    return [_finding(row) for row in read_rows(_ENDED, [MOST_ENDED])]


def checks() -> Sequence[CheckRow]:
    """Return when each part last ran, the ledger first; of nodes that policy knows."""
    return [CheckRow(*row) for row in read_rows(_CHECKS)]


def ages() -> Sequence[StateAge]:
    """Return how old the oldest row of each state and reason was, the oldest first."""
    return [StateAge(*row) for row in read_rows(_AGES)]


def _finding(row: tuple[Any, ...]) -> FindingRow:
    # Django's cursor leaves JSON as text.
    return FindingRow(*(*row[:7], json.loads(row[7]), row[8]))
