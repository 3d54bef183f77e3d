"""Chores on the queue: expire, reap, recount, prune.

Gives    LedgerUpkeep, which implements mailcore.ports.Chores; LaneDifference
Takes    a libpq URL
Raises   StoreUnavailable
Follows  design.md section 3 steps 4 and 10

Plain, for threads; calls wait for each other. Rows to be ended are leased to an incarnation of the
caller's own (not one that also claims for delivery), then ended with their events by `settle`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import psycopg2

from mailcore.envelope import QueuedRow
from mailcore.ports import DeadIncarnation, Defer
from mailio.ledger import arrays
from mailio.ledger.pool import Profile, Session
from mailio.ledger.rows import to_row
from mailio.ledger.upkeep_sql import STATEMENTS

_CHUNK = 2000
# What one call lets go at most, so that other chores have their turn.
_UNPARK_CHUNKS = 50
_LANES_A_TIME = 500
_LANE_IDLE_S = 3600.0
# Nothing younger is pruned, whatever is asked: an unanswered accept is looked up by its batch.
_OUTBOX_FLOOR_S = 300.0
# As long as the events of inbound reports are known: nothing can lead to the same report later.
REPORT_KEYS_KEPT_S = 90 * 86400.0


@dataclass(frozen=True, slots=True)
class LaneDifference:
    """A lane whose counts disagreed with its rows, or whose next due time was too late."""

    lane_id: int
    stored: tuple[int, int, int]
    counted: tuple[int, int, int]
    is_late: bool


class LedgerUpkeep:
    """The chores of the ledger."""

    def __init__(self, dsn: str, *, statement_timeout_s: float = 120.0) -> None:
        self._session = Session(
            dsn,
            role="upkeep",
            profile=Profile.CHORE,
            statements=STATEMENTS,
            statement_timeout_s=statement_timeout_s,
        )

    def select_expired(self, *, incarnation: int, limit: int) -> Sequence[QueuedRow]:
        """Lease waiting and unknown rows whose lifetime is over."""
        return self._lease("select_expired", incarnation, limit)

    def unknown_due(self, *, incarnation: int, limit: int) -> Sequence[QueuedRow]:
        """Lease rows of unknown outcome whose due time has come."""
        return self._lease("unknown_due", incarnation, limit)

    def dead_incarnations(
        self, *, node: str, lease_s: float = 60.0, lost_after_s: float = 900.0
    ) -> Sequence[DeadIncarnation]:
        """Return those of this node past their lease, and those of others lost for long.

        Nobody, for a lease after the database came back: nobody could renew before.
        """
        self._session.run("SELECT 1")
        failed_at = self._session.failed_at
        if failed_at is not None and time.monotonic() - failed_at < lease_s:
            return []
        found = self._session.call("dead_incarnations", (node, lease_s, lost_after_s))
        return [DeadIncarnation(*row) for row in found]

    def rows_of_incarnation(self, incarnation: int, limit: int) -> Sequence[QueuedRow]:
        """Return rows an incarnation leases."""
        return [
            to_row(row) for row in self._session.call("rows_of_incarnation", (incarnation, limit))
        ]

    def reclaim(
        self,
        incarnation: int,
        unknown: Iterable[tuple[int, int]] = (),
        *,
        unknown_delay_s: float = 0.0,
        events: bytes = b"",
        event_count: int = 0,
    ) -> int:
        """Let all rows an incarnation still leases wait, due now; return how many.

        It is declared dead first: its heartbeat fails and it can claim no more. Rows named in
        `unknown` by (row id, claim number) become unknown instead, due after `unknown_delay_s`,
        told by `events` in the same transaction.
        """
        self._session.call("condemn", (incarnation,))
        doubtful = sorted(set(unknown))
        total = 0
        if doubtful:
            found = self._session.call(
                "mark_unknown",
                (
                    incarnation,
                    arrays.numbers([row_id for row_id, _ in doubtful]),
                    arrays.numbers([claim_no for _, claim_no in doubtful]),
                    max(unknown_delay_s, 0.0),
                    event_count,
                    psycopg2.Binary(events),
                ),
            )
            total = int(found[0][0])
        return total + self.release(incarnation)

    def release(self, incarnation: int) -> int:
        """Let all rows an incarnation leases wait, due now; return how many. It lives on."""
        total = 0
        while True:
            count = int(self._session.call("reclaim", (incarnation, _CHUNK))[0][0])
            total += count
            if count < _CHUNK:
                return total

    def doubt(self, defer: Defer, *, events: bytes, event_count: int) -> bool:
        """Let a row be unknown whose claim was taken back, if nobody has claimed it since."""
        delay_s = max(defer.delay_s, 0.0)
        params = (defer.row_id, defer.claim_no, delay_s, event_count, psycopg2.Binary(events))
        return bool(self._session.call("doubt", params)[0][0])

    def bury(self, incarnation: int) -> None:
        """End an incarnation for good."""
        self._session.call("bury", (incarnation,))

    def lane_differences(self) -> Sequence[LaneDifference]:
        """Return the lanes whose counts disagree with their rows in one snapshot."""
        return [
            LaneDifference(row[0], tuple(row[1:4]), tuple(row[4:7]), bool(row[7]))
            for row in self._session.call("lane_differences")
        ]

    def recount_lanes(self) -> int:
        """Count every lane's rows; mend counts that differ; return how many lanes did."""
        return len(self.mend_lanes())

    def mend_lanes(self) -> Sequence[LaneDifference]:
        """Mend what `lane_differences` finds, one locked lane at a time; return what differed."""
        differences = self.lane_differences()
        for difference in differences:
            with self._session.transaction() as execute:
                execute("EXECUTE lock_lane (%s)", (difference.lane_id,))
                execute("EXECUTE mend_lane (%s)", (difference.lane_id,))
        return differences

    def unpark(self) -> int:
        """Let the parked rows of domains that are held no more wait for routing, due now; return
        how many. A million of one domain take several calls."""
        total, chunks = 0, _UNPARK_CHUNKS
        for (domain,) in self._session.call("let_go_domains"):
            after = 0
            while chunks:
                chunks -= 1
                count, after = self._session.call("unpark", (domain, after, _CHUNK))[0]
                total += count
                if count < _CHUNK:
                    break
        return total

    def prune_undo(self, kept_s: float) -> int:
        """Delete undo records older than this; with them goes the claim on their content."""
        return self._until_few("prune_undo", (kept_s, _CHUNK), _CHUNK)

    def prune_outbox(self, kept_s: float) -> int:
        """Delete batches older than this that every consumer has seen."""
        kept_s = max(kept_s, _OUTBOX_FLOOR_S)
        return self._until_few("prune_outbox", (kept_s, _CHUNK), _CHUNK)

    def prune_idempotency(self, kept_s: float) -> int:
        """Delete answers older than this, and the keys of reports once nothing repeats them."""
        return len(self._session.call("prune_idempotency", (kept_s, REPORT_KEYS_KEPT_S)))

    def prune_routes(self) -> int:
        """Delete routes that are no longer valid."""
        return len(self._session.call("prune_routes"))

    def prune_incarnations(self, kept_s: float) -> int:
        """Delete process lives that ended longer ago than this."""
        return len(self._session.call("prune_incarnations", (kept_s,)))

    def drop_empty_lanes(self, older_than_s: float = _LANE_IDLE_S) -> int:
        """Delete lanes that are empty and took no mail for a while."""
        return self._until_few("drop_empty_lanes", (older_than_s, _LANES_A_TIME), _LANES_A_TIME)

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def _lease(self, name: str, incarnation: int, limit: int) -> list[QueuedRow]:
        # An answer that is lost leaves the rows leased to the caller's incarnation: it calls
        # `release` before it takes more.
        found = self._session.call(name, (incarnation, limit), again=False)
        return [to_row(row) for row in found]

    def _until_few(self, name: str, params: Sequence[object], chunk: int) -> int:
        total = 0
        while True:
            count = len(self._session.call(name, params))
            total += count
            if count < chunk:
                return total
