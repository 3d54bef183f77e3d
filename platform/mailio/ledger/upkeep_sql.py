"""The statements of the chores. They lock rows and lanes as those of the delivery path do."""

from __future__ import annotations

from mailio.ledger.delivery_sql import APPLY_DELTA, LANE_KEY
from mailio.ledger.rows import columns

# Rows are leased to whoever ends them, so that no delivery takes them meanwhile.
_LEASE = f"""
), leased AS MATERIALIZED (
    UPDATE ledger_row r SET state = 1, claim_no = r.claim_no + 1, incarnation = $1::bigint
      FROM picked p WHERE r.id = p.id
    RETURNING r.*
), delta AS MATERIALIZED (
    SELECT lane_id, -count(*) FILTER (WHERE state = 0) AS waiting, count(*) AS leased,
           -count(*) FILTER (WHERE state = 2) AS unknown, timestamptz 'infinity' AS due_at
      FROM picked WHERE id IN (SELECT id FROM leased) GROUP BY lane_id
), {APPLY_DELTA}
SELECT {columns(row="c", lane="l")}
  FROM leased c JOIN ledger_lane l ON l.id = c.lane_id
 ORDER BY c.expires_at, c.id
"""  # noqa: S608 (constants of this package)

# Rows of a restored ledger wait for an operator, past all their times: to tell that one has expired
# which was delivered since the backup would be as wrong as to send it. In order, so that no plan
# but the way along the index exists: others read the whole queue.
SELECT_EXPIRED = f"""
WITH picked AS MATERIALIZED (
    SELECT id, lane_id, state FROM ledger_row
     WHERE expires_at <= statement_timestamp() AND state + 0 IN (0, 2) AND reason <> 'restored'
     ORDER BY expires_at
     LIMIT $2::int FOR UPDATE SKIP LOCKED
{_LEASE}"""  # noqa: S608 (constants of this package)

UNKNOWN_DUE = f"""
WITH picked AS MATERIALIZED (
    SELECT id, lane_id, state FROM ledger_row
     WHERE state = 2 AND due_at <= statement_timestamp() AND reason <> 'restored'
     ORDER BY due_at, id
     LIMIT $2::int FOR UPDATE SKIP LOCKED
{_LEASE}"""  # noqa: S608 (constants of this package)

# Nobody is judged within a lease of the database's own start: nobody could renew before.
DEAD = """
SELECT i.id, i.node, i.process, i.journal
  FROM ledger_incarnation i
 WHERE i.ended_at IS NULL
   AND (i.heartbeat_at = '-infinity'
        OR (pg_postmaster_start_time() < statement_timestamp() - make_interval(secs => $2::float8)
            AND i.heartbeat_at < statement_timestamp() - make_interval(
                    secs => CASE WHEN i.node = $1::text THEN $2::float8 ELSE $3::float8 END)))
UNION ALL
-- A claim that was under way while its life was ended may have left rows behind.
SELECT i.id, i.node, i.process, i.journal
  FROM ledger_incarnation i
 WHERE i.ended_at > statement_timestamp() - interval '1 day'
   AND EXISTS (SELECT FROM ledger_row r WHERE r.state = 1 AND r.incarnation = i.id)
 ORDER BY 1
"""

CONDEMN = """
UPDATE ledger_incarnation SET heartbeat_at = '-infinity'
 WHERE id = $1::bigint AND ended_at IS NULL AND heartbeat_at > '-infinity'
"""

BURY = """
UPDATE ledger_incarnation SET ended_at = statement_timestamp()
 WHERE id = $1::bigint AND ended_at IS NULL
"""

# A row that upkeep took to decide over its unknown outcome is as unknown as before: to let it wait
# would send it again, whatever its rule says.
RECLAIM = f"""
WITH picked AS MATERIALIZED (
    SELECT id, lane_id, CASE WHEN reason = 'unknown_outcome' THEN 2 ELSE 0 END AS state
      FROM ledger_row
     WHERE state = 1 AND incarnation = $1::bigint
     LIMIT $2::int FOR UPDATE SKIP LOCKED
), freed AS MATERIALIZED (
    UPDATE ledger_row r
       SET state = p.state, incarnation = NULL, due_at = statement_timestamp(),
           reason = CASE WHEN p.state = 2 THEN r.reason ELSE 'reclaimed' END
      FROM picked p WHERE r.id = p.id
    RETURNING r.lane_id, r.state, r.due_at
), delta AS MATERIALIZED (
    SELECT lane_id, count(*) FILTER (WHERE state = 0) AS waiting, -count(*) AS leased,
           count(*) FILTER (WHERE state = 2) AS unknown,
           COALESCE(min(due_at) FILTER (WHERE state = 0), 'infinity') AS due_at
      FROM freed GROUP BY lane_id
), {APPLY_DELTA}
SELECT count(*) FROM freed
"""  # noqa: S608 (constants of this package)

MARK_UNKNOWN = f"""
WITH doubtful AS MATERIALIZED (
    UPDATE ledger_row r
       SET state = 2, incarnation = NULL, reason = 'unknown_outcome',
           due_at = statement_timestamp() + make_interval(secs => $4::float8)
      FROM unnest($2::bigint[], $3::int[]) AS t (id, claim_no)
     WHERE r.id = t.id AND r.claim_no = t.claim_no AND r.state + 0 = 1
       AND r.incarnation = $1::bigint
    RETURNING r.lane_id
), delta AS MATERIALIZED (
    SELECT lane_id, 0 AS waiting, -count(*) AS leased, count(*) AS unknown,
           timestamptz 'infinity' AS due_at
      FROM doubtful GROUP BY lane_id
), {APPLY_DELTA}, told AS (
    INSERT INTO ledger_outbox (event_count, body)
    SELECT $5::int, $6::bytea WHERE $5::int > 0
)
SELECT count(*) FROM doubtful
"""  # noqa: S608 (constants of this package)

# What its process may have sent was taken back before anybody read its journal. Once somebody else
# has claimed it, that claim decides.
DOUBT = f"""
WITH doubtful AS MATERIALIZED (
    UPDATE ledger_row r
       SET state = 2, reason = 'unknown_outcome',
           due_at = statement_timestamp() + make_interval(secs => $3::float8)
     WHERE r.id = $1::bigint AND r.claim_no = $2::int AND r.state + 0 = 0
       AND r.reason = 'reclaimed'
    RETURNING r.lane_id
), delta AS MATERIALIZED (
    SELECT lane_id, -1 AS waiting, 0 AS leased, 1 AS unknown, timestamptz 'infinity' AS due_at
      FROM doubtful
), {APPLY_DELTA}, told AS (
    INSERT INTO ledger_outbox (event_count, body)
    SELECT $4::int, $5::bytea FROM doubtful WHERE $4::int > 0
)
SELECT count(*) FROM doubtful
"""  # noqa: S608 (constants of this package)

ROWS_OF_INCARNATION = f"""
SELECT {columns(row="r", lane="l")}
  FROM ledger_row r JOIN ledger_lane l ON l.id = r.lane_id
 WHERE r.state = 1 AND r.incarnation = $1::bigint
 ORDER BY r.id LIMIT $2::int
"""  # noqa: S608 (constants of this package)

# Every writer changes rows and counts in one transaction, so any one snapshot must agree with
# itself: what differs here is wrong, and nothing had to be locked to see it.
LANE_DIFFERENCES = """
SELECT l.id, l.waiting, l.leased, l.unknown, COALESCE(c.waiting, 0), COALESCE(c.leased, 0),
       COALESCE(c.unknown, 0), l.next_due_at > COALESCE(c.due_at, 'infinity')
  FROM ledger_lane l
  LEFT JOIN (SELECT lane_id, count(*) FILTER (WHERE state = 0) AS waiting,
                    count(*) FILTER (WHERE state = 1) AS leased,
                    count(*) FILTER (WHERE state = 2) AS unknown,
                    min(due_at) FILTER (WHERE state = 0) AS due_at
               FROM ledger_row GROUP BY lane_id) AS c ON c.lane_id = l.id
 WHERE (l.waiting, l.leased, l.unknown)
       IS DISTINCT FROM (COALESCE(c.waiting, 0), COALESCE(c.leased, 0), COALESCE(c.unknown, 0))
    OR l.next_due_at > COALESCE(c.due_at, 'infinity')
 ORDER BY l.id
"""

# Two statements of one transaction: the count's snapshot is taken after the lane was locked, and
# whoever has changed rows since must wait for that lock to commit.
LOCK_LANE = "SELECT id FROM ledger_lane WHERE id = $1::bigint FOR UPDATE"
MEND_LANE = """
UPDATE ledger_lane l
   SET waiting = c.waiting, leased = c.leased, unknown = c.unknown, touch_no = l.touch_no + 1,
       next_due_at = LEAST(l.next_due_at, COALESCE(c.due_at, 'infinity'))
  FROM (SELECT count(*) FILTER (WHERE state = 0) AS waiting,
               count(*) FILTER (WHERE state = 1) AS leased,
               count(*) FILTER (WHERE state = 2) AS unknown,
               min(due_at) FILTER (WHERE state = 0) AS due_at
          FROM ledger_row WHERE lane_id = $1::bigint) AS c
 WHERE l.id = $1::bigint
"""

# A waiting row in a lane whose count says none would be a fault; it must not lose its lane too.
DROP_EMPTY_LANES = f"""
DELETE FROM ledger_lane
 WHERE id IN (SELECT l.id FROM ledger_lane l
               WHERE l.waiting = 0 AND l.leased = 0 AND l.unknown = 0
                 AND l.used_at < statement_timestamp() - make_interval(secs => $1::float8)
                 AND NOT EXISTS (SELECT FROM ledger_row r WHERE r.lane_id = l.id AND r.state = 0)
               ORDER BY {LANE_KEY}
               LIMIT $2::int FOR UPDATE SKIP LOCKED)
RETURNING 1
"""  # noqa: S608 (constants of this package)

PRUNE_OUTBOX = """
DELETE FROM ledger_outbox o
 USING (SELECT b.xid, b.id FROM ledger_outbox b
         WHERE (b.xid, b.id) <= (SELECT c.xid, c.row_id FROM ledger_cursor c
                                  ORDER BY c.xid, c.row_id LIMIT 1)
           AND b.created_at < statement_timestamp() - make_interval(secs => $1::float8)
         ORDER BY b.xid, b.id LIMIT $2::int) AS old
 WHERE o.id = old.id
RETURNING 1
"""

# Keys of account 0 are those of reports (mailio.reports): a message may be late, or fail, long
# after it was told so first.
PRUNE_IDEMPOTENCY = """
DELETE FROM ledger_idempotency
 WHERE created_at < statement_timestamp() - make_interval(secs => $1::float8)
   AND (account_id <> 0
        OR created_at < statement_timestamp() - make_interval(secs => $2::float8))
RETURNING 1
"""

PRUNE_ROUTES = "DELETE FROM ledger_route WHERE expires_at <= statement_timestamp() RETURNING 1"

PRUNE_INCARNATIONS = """
DELETE FROM ledger_incarnation i
 WHERE i.ended_at < statement_timestamp() - make_interval(secs => $1::float8)
   AND NOT EXISTS (SELECT FROM ledger_row r WHERE r.state = 1 AND r.incarnation = i.id)
RETURNING 1
"""

# From one parked domain to the next, not over their rows. Held or not is asked afresh each time:
# a row may have been parked, or brought back by an undo, after its hold was over.
LET_GO_DOMAINS = """
WITH RECURSIVE parked (domain) AS (
    (SELECT r.unrouted_domain FROM ledger_row r
      WHERE r.unrouted_domain IS NOT NULL AND r.state = 0 AND r.reason = 'held'
      ORDER BY r.unrouted_domain, r.id LIMIT 1)
     UNION ALL
    SELECT n.unrouted_domain
      FROM parked p
     CROSS JOIN LATERAL (
        SELECT r.unrouted_domain FROM ledger_row r
         WHERE r.unrouted_domain > p.domain AND r.state = 0 AND r.reason = 'held'
         ORDER BY r.unrouted_domain, r.id LIMIT 1) n
)
SELECT p.domain FROM parked p
 WHERE NOT EXISTS (SELECT FROM queue_hold h
                    WHERE h.scope = 'domain' AND h.target = p.domain AND h.released_at IS NULL
                      AND (h.ends_at IS NULL OR h.ends_at > statement_timestamp()))
"""

# In the order of their ids, from where the chunk before ended: what was let go a moment ago is
# still in the index, and to pass over it each time would be all work.
UNPARK = f"""
WITH picked AS MATERIALIZED (
    SELECT id FROM ledger_row
     WHERE unrouted_domain = $1::text AND state = 0 AND reason = 'held' AND id > $2::bigint
     ORDER BY id LIMIT $3::int FOR UPDATE SKIP LOCKED
), freed AS MATERIALIZED (
    UPDATE ledger_row r
       SET due_at = statement_timestamp(),
           reason = CASE WHEN r.attempt > 0 THEN 'retry' ELSE 'new' END
      FROM picked p WHERE r.id = p.id
    RETURNING r.id, r.lane_id, r.due_at
), delta AS MATERIALIZED (
    SELECT lane_id, 0 AS waiting, 0 AS leased, 0 AS unknown, min(due_at) AS due_at
      FROM freed GROUP BY lane_id
), {APPLY_DELTA}
SELECT count(*), COALESCE(max(id), 0) FROM freed
"""  # noqa: S608 (constants of this package)

PRUNE_UNDO = """
DELETE FROM queue_undo
 WHERE id IN (SELECT id FROM queue_undo
               WHERE saved_at < statement_timestamp() - make_interval(secs => $1::float8)
               LIMIT $2::int)
RETURNING 1
"""

STATEMENTS = {
    "select_expired": SELECT_EXPIRED,
    "unknown_due": UNKNOWN_DUE,
    "dead_incarnations": DEAD,
    "condemn": CONDEMN,
    "bury": BURY,
    "reclaim": RECLAIM,
    "mark_unknown": MARK_UNKNOWN,
    "doubt": DOUBT,
    "rows_of_incarnation": ROWS_OF_INCARNATION,
    "lane_differences": LANE_DIFFERENCES,
    "lock_lane": LOCK_LANE,
    "mend_lane": MEND_LANE,
    "drop_empty_lanes": DROP_EMPTY_LANES,
    "prune_outbox": PRUNE_OUTBOX,
    "prune_idempotency": PRUNE_IDEMPOTENCY,
    "prune_routes": PRUNE_ROUTES,
    "prune_incarnations": PRUNE_INCARNATIONS,
    "let_go_domains": LET_GO_DOMAINS,
    "unpark": UNPARK,
    "prune_undo": PRUNE_UNDO,
}
