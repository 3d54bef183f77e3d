"""What the nodes told of their spools.

Gives    spool_nodes, silent_nodes, history, no_content_count; SpoolNode, HistoryPoint;
         read_rows, for other figures
Takes    nothing: it is the whole installation's
Raises   StoreUnavailable when PostgreSQL does not answer in time

Upkeep on the nodes measures and sweeps; here is only read what it wrote, one row a node.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from django.db import DatabaseError, connection, transaction

from mailcore.ports import StoreUnavailable
from mailcore.spool import DiskState, disk_state

TIME_LIMIT_MS = 3000
# A node whose upkeep has been silent for longer has no present state.
STALE_S = 900.0

_HISTORY = """
SELECT node, extract(epoch FROM date_bin('30 min', at, 'epoch') - statement_timestamp())::float8,
       min(free_bytes)
  FROM spool_sample WHERE at > statement_timestamp() - interval '24 hours'
 GROUP BY 1, 2 ORDER BY 1, 2
"""
_NO_CONTENT = "SELECT count(*) FROM ledger_row WHERE reason = 'no_content'"


@dataclass(frozen=True, slots=True)
class SpoolNode:
    """The columns of spool_node; `kept` by keeper: [segments, bytes]."""

    node: str
    measured_at: datetime | None
    total_bytes: int
    free_bytes: int
    total_inodes: int
    free_inodes: int
    warn_bytes: int
    stop_bytes: int
    growth: float | None
    hours_left: float | None
    swept_at: datetime | None
    retention_s: float
    segments: int
    size_bytes: int
    live_bytes: int
    kept: Mapping[str, tuple[int, int]]
    oldest_at: datetime | None
    oldest_keeper: str
    foreign_count: int
    foreign_names: Sequence[str]
    unreadable: int
    deleted: int
    deleted_bytes: int
    compacted: int
    copied_bytes: int
    moved_rows: int
    doubt: str
    deleted_all: int
    deleted_bytes_all: int
    compacted_all: int
    copied_bytes_all: int

    @property
    def state(self) -> DiskState:
        """How its disk stood when it was measured; OK before that."""
        if self.measured_at is None:
            return DiskState.OK
        return disk_state(
            self.free_bytes,
            warn_bytes=self.warn_bytes,
            stop_bytes=self.stop_bytes,
            hours_left=self.hours_left,
        )

    def is_stale(self, now: datetime) -> bool:
        """Whether nothing was heard of its upkeep for a while."""
        at = self.measured_at
        return at is None or (now - at).total_seconds() > STALE_S


@dataclass(frozen=True, slots=True)
class HistoryPoint:
    """What was free on a disk so many seconds ago."""

    age_s: float
    free_bytes: int


_NAMES = tuple(field.name for field in fields(SpoolNode))
_NODES = f"SELECT {', '.join(_NAMES)} FROM spool_node ORDER BY node"  # noqa: S608 (names of fields)


def spool_nodes() -> Sequence[SpoolNode]:
    """Return what each node told last."""
    found = []
    for row in read_rows(_NODES):
        values = dict(zip(_NAMES, row, strict=True))
        # Django's cursor leaves JSON as text.
        values |= {name: json.loads(values[name]) for name in ("kept", "foreign_names")}
        found.append(SpoolNode(**values))
    return found


def silent_nodes() -> Sequence[str]:
    """Return the nodes of policy whose upkeep has told nothing yet."""
    sql = "SELECT name FROM nodes_node WHERE name NOT IN (SELECT node FROM spool_node) ORDER BY 1"
    return [str(row[0]) for row in read_rows(sql)]


def history() -> Mapping[str, Sequence[HistoryPoint]]:
    """Return what was free in the last day, the least of each half hour, by node."""
    found: dict[str, list[HistoryPoint]] = {}
    for node, offset_s, free_bytes in read_rows(_HISTORY):
        found.setdefault(node, []).append(HistoryPoint(max(0.0, -offset_s), free_bytes))
    return found


def no_content_count() -> int:
    """Return how many rows wait because their content could not be read."""
    return int(read_rows(_NO_CONTENT)[0][0])


def read_rows(sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Return what a statement finds in bounded time."""
    with _bounded(), connection.cursor() as cursor:
        cursor.execute(sql, params or None)
        return list(cursor.fetchall())


@contextmanager
def _bounded() -> Iterator[None]:
    try:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute(f"SET LOCAL statement_timeout = {TIME_LIMIT_MS}")
            yield
    except DatabaseError as exc:
        reason = (str(exc).splitlines() or [""])[0]
        raise StoreUnavailable("postgresql", reason) from exc
