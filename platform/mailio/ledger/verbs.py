"""What operators do to the queue by filter: count, purge, expire, retry now, undo.

Gives    QueueVerbs: steps, each one bounded transaction; VerbStep, UndoStep
Takes    a libpq URL; which rows are meant, and where the last step ended
Raises   StoreUnavailable; then the step has changed nothing, or may be repeated: what it ended is
         gone, what it made due is due, what it restored has no record any more
Follows  design.md section 6 (chunked, undo record) and its accounting; docs/ledger.md

Rows that a worker holds are never touched. Ends are told by events of the same transaction. Plain
and thread-safe; steps wait for each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import psycopg2

from mailcore.disposition import Rulebook, plan_expired, plan_purged, plan_restored
from mailcore.disposition.settlement import Settlement
from mailcore.envelope import QueuedRow
from mailcore.outcome import RowState
from mailcore.reply import SmtpReply
from mailcore.rowfilter import RowFilter
from mailio.ledger import arrays
from mailio.ledger.lane_filter import lane_params
from mailio.ledger.pool import Execute, Profile, Row, Session
from mailio.ledger.rows import to_row
from mailio.ledger.scan import Meant, Position, Seen, look, meant_params
from mailio.ledger.verbs_sql import STATEMENTS

# Rows a step looks at, and rows it changes: tens of milliseconds, and no lane is locked longer.
LOOKED_AT = 5000
CHANGED = 1000
_SAMPLE = ("recipient", "message_id", "state", "reason", "due_at", "attempt")
_SAMPLE_LANE = ("account_id", "sender_id", "campaign_id", "isp_id", "site")


@dataclass(frozen=True, slots=True)
class VerbStep:
    """What one step came to. `position` None: nothing is left to look at."""

    position: Position | None
    examined: int
    changed: int = 0
    by_state: Counter[str] = field(default_factory=Counter)
    by_isp: Counter[int] = field(default_factory=Counter)
    sample: Sequence[Mapping[str, Any]] = ()

    @property
    def matched(self) -> int:
        """How many rows were meant, and free."""
        return self.by_state.total()


@dataclass(frozen=True, slots=True)
class UndoStep:
    """Rows restored, and rows whose lifetime was over; `after` None: no record is left."""

    after: int | None
    restored: int
    too_late: int


Plan = Callable[[Sequence[QueuedRow], datetime], Settlement]


class QueueVerbs:
    """The queue, as operators change it. `wake` tells the ringer that there is mail due now."""

    def __init__(
        self,
        dsn: str,
        *,
        node: str = "",
        wake: Callable[[], None] = lambda: None,
        looked_at: int = LOOKED_AT,
        changed: int = CHANGED,
        statement_timeout_s: float = 30.0,
    ) -> None:
        self._node = node
        self._wake = wake
        self._looked_at = looked_at
        self._changed = changed
        self._session = Session(
            dsn,
            role="verbs",
            profile=Profile.CHORE,
            statements=STATEMENTS,
            statement_timeout_s=statement_timeout_s,
        )

    def estimate(self, wanted: RowFilter) -> int | None:
        """Return how many rows are meant if lanes alone tell, None if they do not."""
        return self.to_look_at(wanted) if wanted.is_of_lanes else None

    def to_look_at(self, wanted: RowFilter) -> int | None:
        """Return how many rows have to be looked at; None for those of named messages."""
        if wanted.messages:
            return None
        waiting, unknown = map(int, self._session.call("lane_sums", lane_params(wanted))[0])
        counts = {RowState.WAITING: waiting, RowState.UNKNOWN: unknown}
        return sum(counts[state] for state in set(wanted.states))

    def count_step(self, meant: Meant, position: Position, *, sample: int = 0) -> VerbStep:
        """Count, change nothing; show up to `sample` of the rows."""
        with self._session.transaction() as execute:
            seen, following = self._look(execute, meant, position, self._looked_at)
            found = [row for row in seen if row.is_meant]
            shown: list[Row] = []
            if sample and found:
                ids = arrays.numbers([row.id for row in found[:sample]])
                shown = execute("EXECUTE sample (%s)", (ids,))
        return VerbStep(
            following,
            len(seen),
            0,
            Counter(row.state.name.lower() for row in found),
            Counter(row.isp_id for row in found),
            [_shown(row) for row in shown],
        )

    def purge_step(
        self,
        meant: Meant,
        position: Position,
        *,
        job_id: int,
        rules: Rulebook,
        reply: SmtpReply,
        is_own: bool = False,
    ) -> VerbStep:
        """Remove rows, each with a record by which `undo_step` of this job brings it back."""

        def plan(rows: Sequence[QueuedRow], now: datetime) -> Settlement:
            told = plan_purged(
                rows, reply=reply, rules=rules, node=self._node, now=now, is_own=is_own
            )
            return told.settlement()

        return self._end(meant, position, plan, undo_id=job_id)

    def expire_step(
        self, meant: Meant, position: Position, *, rules: Rulebook, reply: SmtpReply
    ) -> VerbStep:
        """End rows as expired, for good."""

        def plan(rows: Sequence[QueuedRow], now: datetime) -> Settlement:
            told = plan_expired(rows, reply=reply, rules=rules, node=self._node, now=now)
            return told.settlement()

        return self._end(meant, position, plan, undo_id=None)

    def retry_step(self, meant: Meant, position: Position) -> VerbStep:
        """Make rows due now; unknown ones, where the filter names them, wait again."""
        with self._session.transaction() as execute:
            seen, following = self._look(execute, meant, position, self._changed)
            found = {row.id: row for row in seen if row.is_meant}
            eased = execute("EXECUTE ease (%s,%s,%s)", _keys(found.values())) if found else []
        if eased:
            self._wake()
        return _step(following, seen, [found[row[0]] for row in eased])

    def with_workers(self, meant: Meant) -> int:
        """Return how many rows are meant but for being with a worker; at most 100,000."""
        messages = meant.filter.messages
        ids = arrays.plain(messages) if messages else None
        params = (*meant_params(replace(meant, is_late=False)), ids)
        return int(self._session.call("leased", params)[0][0])

    def undo_step(self, job_id: int, after: int, *, rules: Rulebook, reply: SmtpReply) -> UndoStep:
        """Bring rows of a purge back to their lanes, under the next claim number.

        Each is told as accepted once more, so that the accounting stays what it is.
        """
        with self._session.transaction() as execute:
            found = execute("EXECUTE records (%s,%s,%s)", (job_id, after, self._changed))
            if not found:
                return UndoStep(None, 0, 0)
            now: datetime = found[0][-1]
            records = [to_row(row[:-1]) for row in found]
            rows = [
                replace(row, claim_no=row.claim_no + 1) for row in records if row.expires_at > now
            ]
            told = plan_restored(rows, reply=reply, rules=rules, node=self._node, now=now)
            settlement = told.settlement()
            restored, gone = execute(
                "EXECUTE restore (%s,%s,%s,%s)",
                (
                    arrays.numbers([row.id for row in records]),
                    now,
                    settlement.event_count,
                    psycopg2.Binary(settlement.events),
                ),
            )[0]
        if restored:
            self._wake()
        return UndoStep(records[-1].id, int(restored), int(gone) - int(restored))

    def recorded(self, job_id: int) -> int:
        """Return how many rows of a purge can be brought back."""
        return int(self._session.call("recorded", (job_id,))[0][0])

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def _look(
        self, execute: Execute, meant: Meant, position: Position, at_most: int
    ) -> tuple[list[Seen], Position | None]:
        return look(execute, meant, position, at_most=at_most, limit=self._looked_at)

    def _end(
        self, meant: Meant, position: Position, plan: Plan, *, undo_id: int | None
    ) -> VerbStep:
        with self._session.transaction() as execute:
            seen, following = self._look(execute, meant, position, self._changed)
            found = {row.id: row for row in seen if row.is_meant}
            taken = execute("EXECUTE take (%s,%s,%s)", _keys(found.values())) if found else []
            if taken:
                settlement = plan([to_row(row[:-1]) for row in taken], taken[0][-1])
                execute(
                    "EXECUTE end_rows (%s,%s,%s,%s)",
                    (
                        arrays.numbers([row[0] for row in taken]),
                        undo_id,
                        settlement.event_count,
                        psycopg2.Binary(settlement.events),
                    ),
                )
        return _step(following, seen, [found[row[0]] for row in taken])


def _keys(rows: Iterable[Seen]) -> tuple[str, str, str]:
    ordered = sorted(rows, key=lambda row: row.id)
    return (
        arrays.numbers([row.id for row in ordered]),
        arrays.numbers([row.lane_id for row in ordered]),
        arrays.numbers([row.state.value for row in ordered]),
    )


def _step(following: Position | None, seen: Sequence[Seen], done: Sequence[Seen]) -> VerbStep:
    return VerbStep(
        following,
        len(seen),
        len(done),
        Counter(row.state.name.lower() for row in done),
        Counter(row.isp_id for row in done),
    )


def _shown(row: Row) -> dict[str, Any]:
    shown = dict(zip((*_SAMPLE, *_SAMPLE_LANE), row, strict=True))
    return shown | {"state": RowState(shown["state"]).name.lower()}
