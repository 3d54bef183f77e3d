"""The statements of spool upkeep. What they lock they skip when it is locked: nobody waits here."""

from __future__ import annotations

from mailio.spool.segments import RECORD_BYTES

INSTALLATION = "SELECT id::text FROM installation"

HOME = """
SELECT i.id::text, COALESCE(h.sweeps, 0)
  FROM installation i LEFT JOIN spool_home h ON h.node = $1::text
"""

COUNT_SWEEP = """
INSERT INTO spool_home AS h (node, sweeps) VALUES ($1::text, 1)
    ON CONFLICT (node) DO UPDATE SET sweeps = h.sweeps + 1
RETURNING (SELECT id::text FROM installation), h.sweeps
"""

# A row or undo record keeps its content alive; content that many share is counted once. One
# statement, one snapshot: what a purge moves from rows to undo records is seen in one of the two.
_POINTERS = """
SELECT content_segment AS segment, content_offset AS at, content_length AS length,
       content_crc AS crc, 1 AS rows, 0 AS undos
  FROM ledger_row WHERE content_segment = {segments}
 UNION ALL
SELECT content_segment, content_offset, content_length, content_crc, 0, 1
  FROM queue_undo WHERE content_segment = {segments}
"""

LIVE_SEGMENTS = f"""
SELECT c.segment, count(*), sum(c.length + {RECORD_BYTES}), sum(c.rows), sum(c.undos)
  FROM (SELECT p.segment, p.at, max(p.length)::bigint AS length, sum(p.rows) AS rows,
               sum(p.undos) AS undos
          FROM ({_POINTERS.format(segments="ANY ($1::bigint[])")}) AS p
         GROUP BY p.segment, p.at) AS c
 GROUP BY c.segment
"""  # noqa: S608 (constants of this package)

LIVE_CONTENTS = f"""
SELECT DISTINCT p.segment, p.at, p.length, p.crc
  FROM ({_POINTERS.format(segments="$1::bigint")}) AS p
 ORDER BY p.at
"""  # noqa: S608 (constants of this package)

# A row that somebody has locked is left to the next sweep, with its old pointer and its segment.
MOVE = """
WITH moved AS MATERIALIZED (
    SELECT * FROM unnest($2::bigint[], $3::bigint[], $4::bigint[])
        AS m (old_offset, new_segment, new_offset)
), picked AS MATERIALIZED (
    SELECT r.id, m.new_segment, m.new_offset
      FROM ledger_row r JOIN moved m ON m.old_offset = r.content_offset
     WHERE r.content_segment = $1::bigint
     LIMIT $5::int FOR UPDATE OF r SKIP LOCKED
), picked_undo AS MATERIALIZED (
    SELECT u.id, m.new_segment, m.new_offset
      FROM queue_undo u JOIN moved m ON m.old_offset = u.content_offset
     WHERE u.content_segment = $1::bigint
     LIMIT $5::int FOR UPDATE OF u SKIP LOCKED
), rows AS (
    UPDATE ledger_row r SET content_segment = p.new_segment, content_offset = p.new_offset
      FROM picked p WHERE r.id = p.id AND r.content_segment = $1::bigint
    RETURNING 1
), undos AS (
    UPDATE queue_undo u SET content_segment = p.new_segment, content_offset = p.new_offset
      FROM picked_undo p WHERE u.id = p.id AND u.content_segment = $1::bigint
    RETURNING 1
)
SELECT (SELECT count(*) FROM rows), (SELECT count(*) FROM undos)
"""

SAMPLE = """
INSERT INTO spool_sample (node, at, free_bytes, free_inodes)
VALUES ($1::text, date_trunc('minute', statement_timestamp()), $2::bigint, $3::bigint)
    ON CONFLICT (node, at) DO UPDATE
   SET free_bytes = excluded.free_bytes, free_inodes = excluded.free_inodes
"""

SAMPLES = """
SELECT extract(epoch FROM statement_timestamp() - at)::float8, free_bytes, free_inodes
  FROM spool_sample
 WHERE node = $1::text AND at > statement_timestamp() - make_interval(secs => $2::float8)
 ORDER BY at
"""

NOTE_DISK = """
INSERT INTO spool_node AS n (node, measured_at, total_bytes, free_bytes, total_inodes, free_inodes,
                             warn_bytes, stop_bytes, growth, hours_left)
VALUES ($1::text, statement_timestamp(), $2::bigint, $3::bigint, $4::bigint, $5::bigint,
        $6::bigint, $7::bigint, $8::float8, $9::float8)
    ON CONFLICT (node) DO UPDATE
   SET (measured_at, total_bytes, free_bytes, total_inodes, free_inodes, warn_bytes, stop_bytes,
        growth, hours_left)
     = (excluded.measured_at, excluded.total_bytes, excluded.free_bytes, excluded.total_inodes,
        excluded.free_inodes, excluded.warn_bytes, excluded.stop_bytes, excluded.growth,
        excluded.hours_left)
"""

NOTE_SWEEP = """
INSERT INTO spool_node AS n (node, swept_at, retention_s, segments, size_bytes, live_bytes, kept,
                             oldest_at, oldest_keeper, foreign_count, foreign_names, unreadable,
                             deleted, deleted_bytes, compacted, copied_bytes, moved_rows, doubt,
                             deleted_all, deleted_bytes_all, compacted_all, copied_bytes_all)
VALUES ($1::text, statement_timestamp(), $2::float8, $3::bigint, $4::bigint, $5::bigint, $6::jsonb,
        to_timestamp($7::float8), $8::text, $9::bigint, $10::jsonb, $11::bigint, $12::bigint,
        $13::bigint, $14::bigint, $15::bigint, $16::bigint, $17::text, $12, $13, $14, $15)
    ON CONFLICT (node) DO UPDATE
   SET (swept_at, retention_s, segments, size_bytes, live_bytes, kept, oldest_at, oldest_keeper,
        foreign_count, foreign_names, unreadable, deleted, deleted_bytes, compacted, copied_bytes,
        moved_rows, doubt)
     = (excluded.swept_at, excluded.retention_s, excluded.segments, excluded.size_bytes,
        excluded.live_bytes, excluded.kept, excluded.oldest_at, excluded.oldest_keeper,
        excluded.foreign_count, excluded.foreign_names, excluded.unreadable, excluded.deleted,
        excluded.deleted_bytes, excluded.compacted, excluded.copied_bytes, excluded.moved_rows,
        excluded.doubt),
       deleted_all = n.deleted_all + excluded.deleted,
       deleted_bytes_all = n.deleted_bytes_all + excluded.deleted_bytes,
       compacted_all = n.compacted_all + excluded.compacted,
       copied_bytes_all = n.copied_bytes_all + excluded.copied_bytes
"""

PRUNE = """
WITH nodes AS (
    DELETE FROM spool_node
     WHERE GREATEST(measured_at, swept_at)
           < statement_timestamp() - make_interval(secs => $1::float8)
)
DELETE FROM spool_sample
 WHERE at < statement_timestamp() - make_interval(secs => $1::float8)
"""

STATEMENTS = {
    "home": HOME,
    "count_sweep": COUNT_SWEEP,
    "live_segments": LIVE_SEGMENTS,
    "live_contents": LIVE_CONTENTS,
    "move_contents": MOVE,
    "sample": SAMPLE,
    "samples": SAMPLES,
    "note_disk": NOTE_DISK,
    "note_sweep": NOTE_SWEEP,
    "prune": PRUNE,
}
