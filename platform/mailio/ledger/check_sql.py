"""The statements of the checker: each short, each from a key, so that no snapshot is held for long.

A statement sees one snapshot, and every writer keeps rows, lanes and incarnations in step within
its transaction: what one look finds amiss was amiss then.
"""

from __future__ import annotations

from mailcore.invariants import (
    CURSOR_S,
    DEAD_S,
    ENDED_S,
    LEASED_OVERDUE_S,
    MOST_EXAMPLES,
    OVERDUE_S,
    UNBURIED_S,
    Invariant,
)
from mailio.ledger.upkeep_sql import LANE_DIFFERENCES

_NOW = "statement_timestamp()"


def _ago(seconds: float) -> str:
    return f"{_NOW} - interval '{seconds:g} s'"


# Nobody is judged who could not renew, or be served, because the database was away.
_IS_UP = f"pg_postmaster_start_time() < {_NOW} - make_interval(secs => $5::float8)"
_OWNED = "p.state = 1 AND i.id IS NOT NULL"
_LIVES = f"i.ended_at IS NULL AND i.heartbeat_at >= {_ago(DEAD_S)}"
_OVERDUE = f"p.expires_at < {_ago(OVERDUE_S)}"
_ASIDE = "(p.state = 2 AND p.reason = 'restored')"
_CONDITIONS = {
    Invariant.ROW_STATE: "p.state NOT BETWEEN 0 AND 2",
    Invariant.NO_OWNER: "p.state = 1 AND i.id IS NULL",
    Invariant.DEAD_CLAIM: f"""{_OWNED} AND (i.ended_at < {_ago(ENDED_S)} OR (
        i.ended_at IS NULL AND i.heartbeat_at < {_ago(DEAD_S)} AND {_IS_UP}))""",
    Invariant.NO_DUE_TIME: "p.state IN (0, 2) AND NOT isfinite(p.due_at)",
    Invariant.NO_REASON: "p.state = 0 AND p.reason <> ALL ($4::text[])",
    Invariant.NO_EXPIRY: "NOT isfinite(p.expires_at)",
    Invariant.EXPIRED: f"""isfinite(p.expires_at) AND {_IS_UP} AND NOT {_ASIDE} AND (
        (p.state IN (0, 2) AND {_OVERDUE}) OR ({_OWNED} AND {_LIVES}
         AND p.expires_at < {_ago(LEASED_OVERDUE_S)}))""",
    Invariant.UNKNOWN_OVERDUE: f"""p.state = 2 AND isfinite(p.due_at) AND NOT {_OVERDUE}
 AND NOT {_ASIDE}
        AND p.due_at < {_ago(OVERDUE_S)} AND {_IS_UP}""",
    Invariant.RESTORED: _ASIDE,
    Invariant.NO_LANE: """l.id IS NULL
        OR (l.site = '') IS DISTINCT FROM (p.unrouted_domain IS NOT NULL)""",
}
# Asked of all rows at once; only what breaks some rule is then asked which.
_ANY = " OR ".join(f"({text})" for text in _CONDITIONS.values())
_JUDGED = ",\n".join(f"('{one.value}', {text})" for one, text in _CONDITIONS.items())

SCAN = f"""
WITH part AS MATERIALIZED (
    SELECT id, lane_id, state, incarnation, due_at, accepted_at, expires_at, reason, unrouted_domain
      FROM ledger_row
     WHERE id > $1::bigint AND id <= $2::bigint ORDER BY id LIMIT $3::int
), broken AS MATERIALIZED (
    SELECT p.id, b.invariant
      FROM part p
      LEFT JOIN ledger_lane l ON l.id = p.lane_id
      LEFT JOIN ledger_incarnation i ON i.id = p.incarnation
     CROSS JOIN LATERAL (VALUES {_JUDGED}) AS b (invariant, is_broken)
     WHERE ({_ANY}) AND b.is_broken
), told AS (
    SELECT invariant, count(*) AS number, (array_agg(id ORDER BY id))[1:{MOST_EXAMPLES}] AS ids
      FROM broken GROUP BY invariant
), aged AS (
    SELECT state, CASE WHEN state = 0 THEN reason ELSE '' END AS reason, count(*) AS number,
           extract(epoch FROM {_NOW} - min(accepted_at))::float8 AS oldest_s,
           (array_agg(id ORDER BY accepted_at, id))[1] AS oldest_id
      FROM part GROUP BY 1, 2
)
SELECT (SELECT max(id) FROM part), (SELECT count(*) FROM part),
       (SELECT jsonb_agg(jsonb_build_array(invariant, number, ids)) FROM told),
       (SELECT jsonb_agg(jsonb_build_array(state, reason, number, oldest_s, oldest_id)) FROM aged)
"""  # noqa: S608 (constants of this package)

RANGE = "SELECT COALESCE(min(id), 0), COALESCE(max(id), 0) FROM ledger_row"

# What a consumer has before it and how old that is; whether an open transaction keeps it from it.
CURSORS = f"""
SELECT c.consumer, b.id, b.xid >= pg_snapshot_xmin(pg_current_snapshot())
  FROM (SELECT consumer, xid, row_id, updated_at FROM ledger_cursor
         UNION ALL
        SELECT name, '0'::xid8, 0, timestamptz '-infinity' FROM unnest($1::text[]) AS n (name)
         WHERE name NOT IN (SELECT consumer FROM ledger_cursor)) AS c
 CROSS JOIN LATERAL (
       SELECT o.id, o.xid, o.created_at FROM ledger_outbox o
        WHERE (o.xid, o.id) > (c.xid, c.row_id) ORDER BY o.xid, o.id LIMIT 1) AS b
 WHERE b.created_at < {_ago(CURSOR_S)} AND c.updated_at < {_ago(CURSOR_S)}
 ORDER BY c.consumer
"""  # noqa: S608 (constants of this package)

# A life that was condemned a moment ago is being buried; whoever began long before is not judged by
# that.
DEAD_PROCESSES = f"""
SELECT i.id, i.node FROM ledger_incarnation i
 WHERE i.ended_at IS NULL AND isfinite(i.heartbeat_at) AND i.heartbeat_at < {_ago(UNBURIED_S)}
   AND pg_postmaster_start_time() < {_NOW} - make_interval(secs => $1::float8)
 ORDER BY i.id
"""  # noqa: S608 (constants of this package)

# --- content --------------------------------------------------------------------------------------

_POINTER = "id, content_segment, content_offset, content_length, content_crc"
CONTENTS = f"""
SELECT {_POINTER} FROM ledger_row
 WHERE id >= $1::bigint AND id <= $2::bigint ORDER BY id LIMIT $3::int
"""  # noqa: S608 (constants of this package)

POINTERS = f"SELECT {_POINTER} FROM ledger_row WHERE id = ANY ($1::bigint[]) ORDER BY id"  # noqa: S608

OPEN_EXAMPLES = """
SELECT e.id::bigint
  FROM queue_finding f CROSS JOIN LATERAL jsonb_array_elements_text(f.examples) AS e (id)
 WHERE f.invariant = $1::text AND f.node = $2::text AND f.ended_at IS NULL
"""

# A node that has not measured its disk for a week is forgotten there, and not asked here.
OTHER_SHELVES = """
SELECT n.node, extract(epoch FROM statement_timestamp() - c.ended_at)::float8,
       COALESCE(c.segments, '{}')
  FROM spool_node n LEFT JOIN queue_check c ON c.part = 'content' AND c.node = n.node
 WHERE n.node <> $1::text
"""

LAST_CONTENT = """
SELECT extract(epoch FROM statement_timestamp() - ended_at)::float8, absent
  FROM queue_check WHERE part = 'content' AND node = $1::text
"""

# --- notes ----------------------------------------------------------------------------------------

NOTE_FOUND = """
INSERT INTO queue_finding AS q (invariant, node, count, mended, examples, note)
SELECT f.invariant, $1::text, f.count, f.mended, f.examples, f.note
  FROM jsonb_to_recordset($2::jsonb)
    AS f (invariant text, count bigint, mended bigint, examples jsonb, note text)
    ON CONFLICT (invariant, node) WHERE ended_at IS NULL DO UPDATE
   SET last_seen_at = now(), count = excluded.count, mended = q.mended + excluded.mended,
       examples = excluded.examples, note = excluded.note
"""

# In the transaction of the note before: what it has not met again, or has mended whole, is over.
NOTE_ENDED = """
UPDATE queue_finding SET ended_at = now()
 WHERE node = $1::text AND invariant = ANY ($2::text[]) AND ended_at IS NULL
   AND (count = 0 OR last_seen_at < now())
"""

NOTE_CHECK = """
INSERT INTO queue_check (part, node, took_s, looked_at, is_whole, segments, absent)
VALUES ($1::text, $2::text, $3::float8, $4::bigint, $5::boolean, $6::bigint[], $7::jsonb)
    ON CONFLICT (part, node) DO UPDATE
   SET ended_at = now(), took_s = excluded.took_s, looked_at = excluded.looked_at,
       is_whole = excluded.is_whole, segments = excluded.segments, absent = excluded.absent
"""

NOTE_AGES = """
INSERT INTO queue_age (state, reason, rows, oldest_s, row_id)
SELECT a.state, a.reason, a.rows, a.oldest_s, a.row_id
  FROM jsonb_to_recordset($1::jsonb)
    AS a (state smallint, reason text, rows bigint, oldest_s float8, row_id bigint)
    ON CONFLICT (state, reason) DO UPDATE
   SET rows = excluded.rows, oldest_s = excluded.oldest_s, row_id = excluded.row_id
"""

FORGET_AGES = """
DELETE FROM queue_age
 WHERE (state, reason) NOT IN (
       SELECT a.state, a.reason FROM jsonb_to_recordset($1::jsonb)
           AS a (state smallint, reason text))
"""

# What a node found that is gone has nobody who would end it.
PRUNE = """
WITH over AS (
    DELETE FROM queue_finding
     WHERE ended_at < now() - make_interval(secs => $1::float8)
), orphaned AS (
    UPDATE queue_finding f SET ended_at = now()
     WHERE f.ended_at IS NULL AND f.node <> '' AND NOT EXISTS (
           SELECT FROM queue_check c WHERE c.part = 'content' AND c.node = f.node)
)
DELETE FROM queue_check WHERE ended_at < now() - make_interval(secs => $1::float8)
"""

STATEMENTS = {
    "scan": SCAN,
    "row_range": RANGE,
    "lane_differences": LANE_DIFFERENCES,
    "cursors": CURSORS,
    "dead_processes": DEAD_PROCESSES,
    "contents": CONTENTS,
    "pointers": POINTERS,
    "open_examples": OPEN_EXAMPLES,
    "other_shelves": OTHER_SHELVES,
    "last_content": LAST_CONTENT,
    "note_found": NOTE_FOUND,
    "note_ended": NOTE_ENDED,
    "note_check": NOTE_CHECK,
    "note_ages": NOTE_AGES,
    "forget_ages": FORGET_AGES,
    "prune_checks": PRUNE,
}
