"""The ledger's side of spool upkeep: what is alive, where it has moved, what a node found.

Gives    SpoolBook, which implements mailcore.ports.SpoolLedger
Takes    a libpq URL
Raises   StoreUnavailable
Follows  design.md section 2 (content has no reference count)

Plain, for threads; calls wait for each other. A pointer is moved only from the record it pointed
at, so that a move sent twice, or by two upkeep processes, is one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from mailcore.envelope import ContentRef
from mailcore.ports import StoreUnavailable
from mailcore.spool import (
    HOUR_S,
    DiskSample,
    DiskSpace,
    Forecast,
    LiveSegment,
    SpoolMark,
    SweepFigures,
)
from mailio.ledger import arrays
from mailio.ledger.leader import Leadership
from mailio.ledger.pool import STORE, Profile, Row, Session
from mailio.ledger.spool_sql import STATEMENTS

SAMPLES_KEPT_S = 7 * 86400.0
_SEGMENTS_A_TIME = 200
_ROWS_A_TIME = 2000
_ROLE = "sweep"


class SpoolBook:
    """What upkeep asks of the ledger about content, and what it notes there."""

    def __init__(
        self, dsn: str, *, statement_timeout_s: float = 120.0, rows_a_time: int = _ROWS_A_TIME
    ) -> None:
        self._rows_a_time = rows_a_time
        self._session = Session(
            dsn,
            role="spool",
            profile=Profile.CHORE,
            statements=STATEMENTS,
            statement_timeout_s=statement_timeout_s,
        )
        self._leads = Leadership(self._session)
        self._led: int | None = None

    def lead(self) -> bool:
        """Take or keep the right to sweep the spool that nodes share; one process has it.

        The lock is the session's that also moves pointers: who lost it moves nothing any more.
        """
        self._led = None
        if self._leads.take(_ROLE):
            self._led = self._session.generation
        return self._led is not None

    def home(self, node: str) -> SpoolMark:
        """Return whose this ledger is, and how many sweeps of the node it has counted."""
        ((installation, sweeps),) = self._session.call("home", (node,))
        return SpoolMark(installation, node, sweeps)

    def count_sweep(self, node: str) -> SpoolMark:
        """Count one more; return the same."""
        ((installation, sweeps),) = self._session.call("count_sweep", (node,))
        return SpoolMark(installation, node, sweeps)

    def live_segments(self, segments: Sequence[int]) -> Sequence[LiveSegment]:
        """Return those of these segments that a row or an undo record points at."""
        found: list[LiveSegment] = []
        for first in range(0, len(segments), _SEGMENTS_A_TIME):
            part = arrays.numbers(segments[first : first + _SEGMENTS_A_TIME])
            rows = self._session.call("live_segments", (part,))
            found += [LiveSegment(*(int(value) for value in row)) for row in rows]
        return found

    def live_contents(self, segment: int) -> Sequence[ContentRef]:
        """Return the contents of a segment that are pointed at, each once."""
        return [ContentRef(*row) for row in self._session.call("live_contents", (segment,))]

    def move_contents(self, moves: Sequence[tuple[ContentRef, ContentRef]]) -> int:
        """Point all that points at the first of each pair at the second; return how many did.

        The old ones lie in one segment. Rows that are locked meanwhile keep their pointer.
        """
        if not moves:
            return 0
        params = (
            moves[0][0].segment,
            arrays.numbers([old.offset for old, _ in moves]),
            arrays.numbers([new.segment for _, new in moves]),
            arrays.numbers([new.offset for _, new in moves]),
            self._rows_a_time,
        )
        total = 0
        while True:
            rows, undos = map(int, self._move(params)[0])
            total += rows + undos
            if max(rows, undos) < self._rows_a_time:
                return total

    def _move(self, params: Sequence[object]) -> list[Row]:
        if self._led is None:
            return self._session.call("move_contents", params)
        marks = ",".join(["%s"] * len(params))
        with self._session.transaction() as execute:
            moved = execute(f"EXECUTE move_contents ({marks})", params)
            if self._session.generation != self._led:
                raise StoreUnavailable(STORE, "another process sweeps: the connection was lost")
            return moved

    def note_sample(self, node: str, space: DiskSpace) -> Sequence[DiskSample]:
        """Note what is free now; return the samples of the last hour, this one included."""
        self._session.call("sample", (node, space.free_bytes, space.free_inodes))
        # A little more than the hour: the first minute is not to come and go with the second.
        found = self._session.call("samples", (node, HOUR_S + 60.0))
        return [DiskSample(*row) for row in found]

    def note_disk(
        self, node: str, space: DiskSpace, told: Forecast, *, warn_bytes: int, stop_bytes: int
    ) -> None:
        """Note how a node's disk stands, for people."""
        self._session.call(
            "note_disk",
            (
                *(node, space.total_bytes, space.free_bytes),
                *(space.total_inodes, space.free_inodes, warn_bytes, stop_bytes),
                *(told.growth, told.hours_left),
            ),
        )

    def note_sweep(self, node: str, figures: SweepFigures) -> None:
        """Note what a sweep found and did, for people. Sent once: its sums would grow twice."""
        oldest_ms = figures.oldest_ms
        self._session.call(
            "note_sweep",
            (
                *(node, figures.retention_s, figures.segments, figures.size_bytes),
                *(figures.live_bytes, json.dumps(figures.kept)),
                *(None if oldest_ms is None else oldest_ms / 1000, figures.oldest_keeper),
                *(figures.foreign_count, json.dumps(list(figures.foreign_names))),
                *(figures.unreadable, figures.deleted, figures.deleted_bytes),
                *(figures.compacted, figures.copied_bytes, figures.moved_rows, figures.doubt),
            ),
            again=False,
        )

    def prune(self) -> None:
        """Forget samples, and nodes not heard of, after a week."""
        self._session.call("prune", (SAMPLES_KEPT_S,))

    def close(self) -> None:
        """Close the connection."""
        self._session.close()
