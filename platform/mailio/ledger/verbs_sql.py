"""The statements of the queue verbs: look, take, end, ease, restore.

A look goes along an index from where the last one ended and locks nothing. What it found is then
taken by id, as it is now, if it is in the state and lane in which it was seen: an operator who did
not name the unknown must not have one sent again. What others hold is left to them. Lanes are
locked after rows and in their order, as everywhere (delivery_sql).
"""

from __future__ import annotations

from mailio.ledger.delivery_sql import APPLY_DELTA, LANE_KEY
from mailio.ledger.lane_filter import LANES
from mailio.ledger.rows import columns

# How many lanes one step may go through; their counts then say how many of them it needs.
LANES_A_STEP = 500
# More leased rows than this are not counted one by one.
MOST_LEASED = 100_000

# An unrouted row that is not due yet was accepted for later: it is as scheduled as a routed one.
_REASON = """\
CASE WHEN r.reason = 'unrouted' AND r.due_at > statement_timestamp() THEN 'scheduled'
              ELSE r.reason END"""
# $7 domains, $8 recipients, $9 reasons, $10 accepted before, $11 whether only rows that can be
# made due sooner are meant.
_WANTED = f"""\
    r.accepted_at <= $10::timestamptz
   AND ($7::text[] IS NULL OR substring(r.recipient FROM '[^@]*$') = ANY ($7::text[]))
   AND ($8::text[] IS NULL OR lower(r.recipient) = ANY ($8::text[]))
   AND ($9::text[] IS NULL OR {_REASON} = ANY ($9::text[]))
   AND (NOT $11::bool OR r.state = 2
        OR (r.due_at > statement_timestamp() AND r.reason <> 'held'
            AND ({_REASON} <> 'scheduled' OR COALESCE('scheduled' = ANY ($9::text[]), false))))"""
_SEEN = f"""
SELECT r.id, r.lane_id, r.due_at::text, r.state, l.isp_id, {LANES} AND {_WANTED}"""

# Enough lanes for a step, from one on, by what they count; and the time, where rows that are due
# later begin.
LOOK_LANES = f"""
SELECT t.id, statement_timestamp()::text
  FROM (SELECT f.id, sum(f.waiting) OVER (ORDER BY f.id) - f.waiting AS before
          FROM (SELECT l.id, l.waiting FROM ledger_lane l
                 WHERE l.id >= $7::bigint AND l.waiting > 0 AND {LANES}
                 ORDER BY l.id LIMIT {LANES_A_STEP}) AS f) AS t
 WHERE t.before < $8::int
 ORDER BY t.id
"""  # noqa: S608 (constants of this package)

LOOK_WAITING = f"""{_SEEN}
  FROM unnest($12::bigint[], $13::timestamptz[], $14::bigint[]) AS s (lane_id, due_at, id)
  JOIN ledger_lane l ON l.id = s.lane_id
 CROSS JOIN LATERAL (
    SELECT w.* FROM ledger_row w
     WHERE w.lane_id = s.lane_id AND w.state = 0 AND (w.due_at, w.id) > (s.due_at, s.id)
     ORDER BY w.due_at, w.id LIMIT $15::int) AS r
 ORDER BY r.lane_id, r.due_at, r.id LIMIT $15::int
"""  # noqa: S608 (constants of this package)

LOOK_UNKNOWN = f"""{_SEEN}
  FROM (SELECT u.* FROM ledger_row u
         WHERE u.state = 2 AND (u.due_at, u.id) > ($12::timestamptz, $13::bigint)
         ORDER BY u.due_at, u.id LIMIT $14::int) AS r
  JOIN ledger_lane l ON l.id = r.lane_id
 ORDER BY r.due_at, r.id
"""  # noqa: S608 (constants of this package)

# `id + 0`: the order must not tempt anybody to read the table by its key.
LOOK_MESSAGES = f"""{_SEEN}
  FROM (SELECT m.* FROM ledger_row m
         WHERE m.message_id = ANY ($12::uuid[]) AND m.state + 0 = ANY ($13::int[])
           AND m.id > $14::bigint
         ORDER BY m.id + 0 LIMIT $15::int) AS r
  JOIN ledger_lane l ON l.id = r.lane_id
 ORDER BY r.id
"""  # noqa: S608 (constants of this package)

LEASED = f"""
SELECT count(*)
  FROM (SELECT FROM ledger_row r JOIN ledger_lane l ON l.id = r.lane_id
         WHERE r.state = 1 AND {LANES} AND {_WANTED}
           AND ($12::uuid[] IS NULL OR r.message_id = ANY ($12::uuid[]))
         LIMIT {MOST_LEASED}) AS found
"""  # noqa: S608 (constants of this package)

LANE_SUMS = f"""
SELECT COALESCE(sum(l.waiting), 0), COALESCE(sum(l.unknown), 0) FROM ledger_lane l WHERE {LANES}
"""  # noqa: S608 (constants of this package)

SAMPLE = """
SELECT r.recipient, r.message_id::text, r.state, r.reason, r.due_at::text, r.attempt,
       l.account_id, l.sender_id, l.campaign_id, l.isp_id, l.site
  FROM ledger_row r JOIN ledger_lane l ON l.id = r.lane_id
 WHERE r.id = ANY ($1::bigint[])
 ORDER BY r.id
"""

TAKE = f"""
SELECT {columns(row="r", lane="l")}, statement_timestamp()
  FROM unnest($1::bigint[], $2::bigint[], $3::int[]) AS t (id, lane_id, state)
  JOIN ledger_row r ON r.id = t.id AND r.lane_id = t.lane_id AND r.state + 0 = t.state
  JOIN ledger_lane l ON l.id = r.lane_id
 ORDER BY r.id
   FOR UPDATE OF r SKIP LOCKED
"""  # noqa: S608 (constants of this package)

# What a record has of its row and of its lane, but for the state, which has a place of its own.
_OF_LANE = "sender_id, account_id, campaign_id, mail_class, site, tls_need, isp_id"
_OF_ROW = (
    "recipient_no, attempt, claim_no, due_at, accepted_at, expires_at, message_id, "
    "content_segment, content_offset, content_length, content_crc, pinned_source_id, "
    "unrouted_domain, recipient, reverse_path, header_from, message_id_header, custom, reason, "
    "last_reply, dsn"
)


def _named(alias: str, names: str) -> str:
    return ", ".join(f"{alias}.{name}" for name in names.split(", "))


# $2 is the job that can be undone, NULL for ends that are for good.
END = f"""
WITH gone AS MATERIALIZED (
    DELETE FROM ledger_row WHERE id = ANY ($1::bigint[]) RETURNING *
), saved AS (
    INSERT INTO queue_undo (job_id, row_id, {_OF_LANE}, state, {_OF_ROW})
    SELECT $2::bigint, g.id, {_named("l", _OF_LANE)}, g.state, {_named("g", _OF_ROW)}
      FROM gone g JOIN ledger_lane l ON l.id = g.lane_id
     WHERE $2::bigint IS NOT NULL
), delta AS MATERIALIZED (
    SELECT lane_id, -count(*) FILTER (WHERE state = 0) AS waiting, 0 AS leased,
           -count(*) FILTER (WHERE state = 2) AS unknown, timestamptz 'infinity' AS due_at
      FROM gone GROUP BY lane_id
), {APPLY_DELTA}, told AS (
    INSERT INTO ledger_outbox (event_count, body)
    SELECT $3::int, $4::bytea WHERE $3::int > 0
)
SELECT count(*) FROM gone
"""  # noqa: S608 (constants of this package)

# Nobody's word ends here, so nothing is told. A row keeps saying why it waited until it is tried.
EASE = f"""
WITH picked AS MATERIALIZED (
    SELECT r.id, r.state
      FROM unnest($1::bigint[], $2::bigint[], $3::int[]) AS t (id, lane_id, state)
      JOIN ledger_row r ON r.id = t.id AND r.lane_id = t.lane_id AND r.state + 0 = t.state
     WHERE r.state + 0 = 2
        OR (r.state + 0 = 0 AND r.due_at > statement_timestamp() AND r.reason <> 'held')
     ORDER BY r.id
       FOR UPDATE OF r SKIP LOCKED
), eased AS MATERIALIZED (
    UPDATE ledger_row r
       SET state = 0, incarnation = NULL, due_at = statement_timestamp(),
           reason = CASE WHEN p.state = 2 THEN 'retry' WHEN r.reason = 'scheduled' THEN 'new'
                         ELSE r.reason END
      FROM picked p WHERE r.id = p.id
    RETURNING r.id, r.lane_id, r.due_at, p.state
), delta AS MATERIALIZED (
    SELECT lane_id, count(*) FILTER (WHERE state = 2) AS waiting, 0 AS leased,
           -count(*) FILTER (WHERE state = 2) AS unknown, min(due_at) AS due_at
      FROM eased GROUP BY lane_id
), {APPLY_DELTA}
SELECT id FROM eased
"""  # noqa: S608 (constants of this package)

# Whoever undoes the same at the same time, or prunes it, waits here, and then finds nothing.
RECORDS = f"""
SELECT {columns(row="u", lane="u")}, statement_timestamp()
  FROM (SELECT q.*, bigint '0' AS lane_id FROM queue_undo q
         WHERE q.job_id = $1::bigint AND q.id > $2::bigint
         ORDER BY q.id LIMIT $3::int FOR UPDATE) AS u
 ORDER BY u.id
"""  # noqa: S608 (constants of this package)

# $2 is the time by which the events were written: what has outlived its lifetime stays purged. A
# hold may have ended since, so a parked row goes back to routing, which parks it again if need be.
# The number is the old one: what a process that was thought dead delivered ends it all the same.
RESTORE = f"""
WITH gone AS MATERIALIZED (
    DELETE FROM queue_undo WHERE id = ANY ($1::bigint[]) RETURNING *
), back AS MATERIALIZED (
    SELECT g.*,
           CASE WHEN g.reason = 'held' THEN statement_timestamp()
                ELSE GREATEST(g.due_at, statement_timestamp()) END AS again_at
      FROM gone g WHERE g.expires_at > $2::timestamptz
), lane AS (
    INSERT INTO ledger_lane AS l ({LANE_KEY}, isp_id, waiting, unknown, next_due_at, touch_no)
    SELECT {LANE_KEY}, max(isp_id), count(*) FILTER (WHERE state = 0),
           count(*) FILTER (WHERE state = 2),
           COALESCE(min(again_at) FILTER (WHERE state = 0), 'infinity'), 1
      FROM back GROUP BY {LANE_KEY} ORDER BY {LANE_KEY}
    ON CONFLICT ({LANE_KEY}) DO UPDATE
       SET waiting = l.waiting + excluded.waiting, unknown = l.unknown + excluded.unknown,
           next_due_at = LEAST(l.next_due_at, excluded.next_due_at),
           touch_no = l.touch_no + 1, used_at = statement_timestamp()
    RETURNING id AS lane_id, {LANE_KEY}
), stored AS (
    INSERT INTO ledger_row (id, lane_id, state, {_OF_ROW}) OVERRIDING SYSTEM VALUE
    SELECT b.row_id, lane.lane_id, b.state, b.recipient_no, b.attempt, b.claim_no + 1, b.again_at,
           b.accepted_at, b.expires_at, b.message_id, b.content_segment, b.content_offset,
           b.content_length, b.content_crc, b.pinned_source_id, b.unrouted_domain, b.recipient,
           b.reverse_path, b.header_from, b.message_id_header, b.custom,
           CASE WHEN b.reason = 'held' THEN 'unrouted' ELSE b.reason END, b.last_reply,
           b.dsn
      FROM back b JOIN lane USING ({LANE_KEY})
    RETURNING 1
), told AS (
    INSERT INTO ledger_outbox (event_count, body)
    SELECT $3::int, $4::bytea WHERE $3::int > 0
)
SELECT (SELECT count(*) FROM stored), (SELECT count(*) FROM gone)
"""  # noqa: S608 (constants of this package)

RECORDED = "SELECT count(*) FROM queue_undo WHERE job_id = $1::bigint"

STATEMENTS = {
    "look_lanes": LOOK_LANES,
    "look_waiting": LOOK_WAITING,
    "look_unknown": LOOK_UNKNOWN,
    "look_messages": LOOK_MESSAGES,
    "leased": LEASED,
    "lane_sums": LANE_SUMS,
    "sample": SAMPLE,
    "take": TAKE,
    "end_rows": END,
    "ease": EASE,
    "records": RECORDS,
    "restore": RESTORE,
    "recorded": RECORDED,
}
