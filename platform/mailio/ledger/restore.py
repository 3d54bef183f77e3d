"""A ledger that was restored from a backup: noticed, and its rows set aside.

Gives    Restores: check (before a process may hold rows), begin (by hand), found, count_aside,
         aside, end; Restored
Takes    a libpq URL
Raises   StoreUnavailable
Follows  docs/reliability.md, a restored backup

Rows of a restored ledger may have been sent since the backup. None of them is sent again before
an operator has decided: they become unknown, with the reason `restored`, and no chore touches them.
While they are being set aside nothing is claimed (`delivery_sql.CLAIM`); whoever comes by goes on
with it from where it stood. Rows accepted after it was noticed have higher numbers and flow.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from mailio.ledger import arrays
from mailio.ledger.delivery_sql import APPLY_DELTA
from mailio.ledger.pool import Profile, Session
from mailio.witness import Seen

_CHUNK = 2000
_LOCK = 0x6C65646765720002
# Numbers and claims that were given out since the backup must not be given out again: journals and
# events name them.
_NUMBERS_SKIPPED = 10**10
_CLAIMS_SKIPPED = 1000

_INSTALLATION = "SELECT id::text FROM installation"
# What was noticed already is no news: who last saw the ledger before that saw what was lost then.
_IS_NEWS = """
SELECT COALESCE((SELECT beats FROM ledger_witness WHERE name = $1::text), 0) < $2::bigint
       AND NOT EXISTS (SELECT FROM ledger_restore WHERE noticed_at >= to_timestamp($3::float8)),
       COALESCE((SELECT beats FROM ledger_witness WHERE name = $1::text), 0)
"""
_BEGIN = """
WITH mark AS (
    SELECT nextval(pg_get_serial_sequence('ledger_row', 'id')) AS up_to
), begun AS (
    INSERT INTO ledger_restore (noticed_by, note, up_to)
    SELECT $1::text, $2::text, up_to FROM mark
)
SELECT setval(pg_get_serial_sequence('ledger_row', 'id'), up_to + $3::bigint) FROM mark
"""
_WITNESSED = """
INSERT INTO ledger_witness AS w (name, beats) VALUES ($1::text, $2::bigint)
    ON CONFLICT (name) DO UPDATE SET beats = GREATEST(w.beats, excluded.beats)
"""
# The transactions of another cluster count as the oldest of this one; what is kept of them is
# handed out once more, and events that are there already change nothing. No snapshot sees one of
# its own cluster that is not below its xmax.
_IS_OF_OTHERS = """
SELECT EXISTS (SELECT FROM ledger_outbox WHERE xid >= pg_snapshot_xmax(pg_current_snapshot()))
       OR EXISTS (SELECT FROM ledger_cursor WHERE xid >= pg_snapshot_xmax(pg_current_snapshot()))
"""
_CURSORS_BACK = "UPDATE ledger_cursor SET xid = '0', row_id = 0, updated_at = statement_timestamp()"
_OUTBOX_BACK = """
UPDATE ledger_outbox SET xid = '1' WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())
"""
_OPEN = "SELECT id, at_id, up_to FROM ledger_restore WHERE ended_at IS NULL FOR UPDATE"
_SET_ASIDE = f"""
WITH picked AS MATERIALIZED (
    SELECT id, lane_id, state FROM ledger_row
     WHERE id > $1::bigint AND id <= $2::bigint AND NOT (state = 2 AND reason = 'restored')
     ORDER BY id LIMIT $3::int FOR UPDATE
), moved AS MATERIALIZED (
    UPDATE ledger_row r
       SET state = 2, reason = 'restored', incarnation = NULL, due_at = r.expires_at,
           claim_no = r.claim_no + {_CLAIMS_SKIPPED}
      FROM picked p WHERE r.id = p.id
    RETURNING r.id
), delta AS MATERIALIZED (
    SELECT lane_id, -count(*) FILTER (WHERE state = 0) AS waiting,
           -count(*) FILTER (WHERE state = 1) AS leased,
           count(*) FILTER (WHERE state <> 2) AS unknown, timestamptz 'infinity' AS due_at
      FROM picked GROUP BY lane_id
), {APPLY_DELTA}
SELECT count(*), COALESCE(max(id), 0) FROM moved
"""  # noqa: S608 (constants of this package)
_NOTE = """
UPDATE ledger_restore
   SET at_id = GREATEST(at_id, $2::bigint), rows = rows + $3::bigint,
       ended_at = CASE WHEN $4::boolean THEN statement_timestamp() END
 WHERE id = $1::bigint
"""
_FOUND = """
SELECT id, noticed_at, noticed_by, note, rows, ended_at
  FROM ledger_restore ORDER BY id DESC LIMIT 20
"""
_COUNT = "SELECT count(*) FROM ledger_row WHERE reason = 'restored' AND state = 2"
_ASIDE = """
SELECT id, message_id::text, recipient_no FROM ledger_row
 WHERE reason = 'restored' AND state = 2 AND id > $1::bigint ORDER BY id LIMIT $2::int
"""
# What has ended was told when it did; here its row follows.
_END = f"""
WITH gone AS MATERIALIZED (
    DELETE FROM ledger_row
     WHERE id = ANY ($1::bigint[]) AND state + 0 = 2 AND reason = 'restored' RETURNING lane_id
), delta AS MATERIALIZED (
    SELECT lane_id, 0 AS waiting, 0 AS leased, -count(*) AS unknown,
           timestamptz 'infinity' AS due_at
      FROM gone GROUP BY lane_id
), {APPLY_DELTA}
SELECT count(*) FROM gone
"""  # noqa: S608 (constants of this package)

STATEMENTS = {
    "is_news": _IS_NEWS,
    "begin_restore": _BEGIN,
    "witnessed": _WITNESSED,
    "is_of_others": _IS_OF_OTHERS,
    "cursors_back": _CURSORS_BACK,
    "outbox_back": _OUTBOX_BACK,
    "open_restore": _OPEN,
    "set_aside": _SET_ASIDE,
    "note_restore": _NOTE,
    "restores": _FOUND,
    "count_aside": _COUNT,
    "aside": _ASIDE,
    "end_aside": _END,
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Restored:
    """A restored backup that was noticed, and how many rows were set aside for it."""

    number: int
    noticed_at: datetime
    noticed_by: str
    note: str
    rows: int
    ended_at: datetime | None


class Restores:
    """Restored backups of one ledger. Plain, for threads; calls wait for each other."""

    def __init__(
        self, dsn: str, *, statement_timeout_s: float = 120.0, rows_a_time: int = _CHUNK
    ) -> None:
        self._rows_a_time = rows_a_time
        self.session = Session(
            dsn,
            role="restore",
            profile=Profile.CHORE,
            statements=STATEMENTS,
            statement_timeout_s=statement_timeout_s,
        )

    def installation(self) -> str:
        """Return the id of the installation whose ledger this is."""
        return str(self.session.run(_INSTALLATION)[0][0])

    def check(self, seen: Seen) -> int:
        """Compare the ledger with what was seen of it; set its rows aside if it is older.

        Returns how many heartbeats the ledger counts for the witness now. Returns only once
        nothing is left to be set aside, whoever noticed.
        """
        self._take_over()
        is_news, beats = self._news(seen)
        if is_news:
            note = f"{seen.beats} heartbeats were seen, {beats} are known"
            self._begin(seen.name, note, seen)
        elif beats < seen.beats:
            self.session.call("witnessed", (seen.name, seen.beats))
        self.go_on()
        return max(beats, seen.beats)

    def begin(self, author: str, note: str) -> None:
        """Set everything aside that is in the ledger now, by somebody's word; then see `go_on`."""
        self._begin(author, note, None)

    def go_on(self) -> None:
        """Set aside what is left of a restored backup that was noticed."""
        while self._step():
            pass

    def found(self) -> Sequence[Restored]:
        """Return what was noticed, the newest first."""
        return [Restored(*row) for row in self.session.call("restores")]

    def count_aside(self) -> int:
        """Return how many rows are set aside and not decided over."""
        return int(self.session.call("count_aside")[0][0])

    def aside(self, *, after: int, limit: int) -> Sequence[tuple[int, UUID, int]]:
        """Return rows that are set aside, from a number on: number, message, recipient number."""
        found = self.session.call("aside", (after, limit))
        return [(int(row[0]), UUID(row[1]), int(row[2])) for row in found]

    def end(self, row_ids: Sequence[int]) -> int:
        """End rows that are set aside and whose end was told before; return how many were."""
        return int(self.session.call("end_aside", (arrays.numbers(row_ids),))[0][0])

    def close(self) -> None:
        """Close the connection."""
        self.session.close()

    def _news(self, seen: Seen) -> tuple[bool, int]:
        found = self.session.call("is_news", (seen.name, seen.beats, seen.at_s))
        return bool(found[0][0]), int(found[0][1])

    def _take_over(self) -> None:
        """Let consumers go on in a cluster that counts transactions from another number."""
        with self.session.transaction() as execute:
            if execute("EXECUTE is_of_others", ())[0][0]:
                execute("EXECUTE cursors_back", ())
                execute("EXECUTE outbox_back", ())
                log.error("the ledger came from another cluster; its outbox is told once more")

    def _begin(self, noticed_by: str, note: str, seen: Seen | None) -> None:
        with self.session.transaction() as execute:
            execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            if execute("EXECUTE open_restore", ()):
                is_wanted = False
            elif seen is None:
                is_wanted = True
            else:
                asked = (seen.name, seen.beats, seen.at_s)
                is_wanted = bool(execute("EXECUTE is_news (%s, %s, %s)", asked)[0][0])
            if is_wanted:
                params = (noticed_by, note, _NUMBERS_SKIPPED)
                execute("EXECUTE begin_restore (%s, %s, %s)", params)
            if seen is not None:
                execute("EXECUTE witnessed (%s, %s)", (seen.name, seen.beats))
        if is_wanted:
            log.error(
                "the ledger is older than what was seen of it; its rows are set aside",
                extra={"witness": noticed_by, "note": note},
            )

    def _step(self) -> bool:
        """Set some aside; False if nothing is open."""
        with self.session.transaction() as execute:
            found = execute("EXECUTE open_restore", ())
            if not found:
                return False
            number, at_id, up_to = found[0]
            params = (at_id, up_to, self._rows_a_time)
            count, last = execute("EXECUTE set_aside (%s, %s, %s)", params)[0]
            is_last = count < self._rows_a_time
            execute("EXECUTE note_restore (%s, %s, %s, %s)", (number, last, count, is_last))
        if is_last:
            log.error("rows of a restored ledger are set aside", extra={"restore": number})
        return not is_last
