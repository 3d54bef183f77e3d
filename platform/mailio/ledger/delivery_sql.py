"""The statements of the delivery path.

Each is one transaction in one round trip. All that change lanes do it alike: rows first, then the
lanes concerned are locked in the order of their unique key, then their counts change by a delta.
`statement_timestamp()`, never `clock_timestamp()`: a volatile bound cannot use an index.

Plans are made once and kept, perhaps while the tables are empty. So tables are joined by
`id = ANY (ARRAY[other])`: it can look up in the primary key and nothing else, whereas `id = other`
also admits reading the whole key in order, which costs nothing on an empty table and a second on a
queue of a hundred thousand.
"""

from __future__ import annotations

from mailcore.outcome import MailClass, TlsNeed
from mailio.ledger.rows import columns

LANE_KEY = "site, sender_id, account_id, campaign_id, mail_class, tls_need"
# The same order, written so that no index has it: an index read whole to save a sort of a few
# lanes is a bad bargain, and looks like a good one while the table is empty.
LOCK_ORDER = "k.site || '', k.sender_id, k.account_id, k.campaign_id, k.mail_class, k.tls_need"

# What the deltas of a statement do to lanes. `delta` has one line a lane: changes of the three
# counts and the earliest due time of rows that began to wait ('infinity' if none did). The locked
# lanes carry their delta along: joining the two again would cost the square of their number.
APPLY_DELTA = f"""
locked AS MATERIALIZED (
    SELECT k.id, d.waiting, d.leased, d.unknown, d.due_at
      FROM delta d JOIN ledger_lane k ON k.id = ANY (ARRAY[d.lane_id])
     ORDER BY {LOCK_ORDER} FOR UPDATE OF k
), lanes AS (
    UPDATE ledger_lane l
       SET waiting = l.waiting + d.waiting, leased = l.leased + d.leased,
           unknown = l.unknown + d.unknown,
           next_due_at = LEAST(l.next_due_at, d.due_at),
           touch_no = l.touch_no + (d.due_at < 'infinity')::int
      FROM locked d
     WHERE l.id = ANY (ARRAY[d.id])
)"""  # noqa: S608 (constants of this module)


def _is_as_new(first: int) -> str:
    """Return the condition that no restored backup is being set aside, and that the ledger knows of
    the last heartbeat this process saw: the witness's name and its count (0: none) from here."""
    name, beats = f"${first}::text", f"${first + 1}::bigint"
    return f"""NOT EXISTS (SELECT FROM ledger_restore WHERE ended_at IS NULL)
       AND ({beats} = 0 OR EXISTS (SELECT FROM ledger_witness w
                                    WHERE w.name = {name} AND w.beats >= {beats}))"""  # noqa: S608


# A lane's next due time is computed from the same snapshot as its rows, without those taken here,
# and is only believed if nobody touched the lane since. A claim that began at a low mark has not
# seen the rows below it; if the lane still has rows, it is looked at again within five seconds.
CLAIM = f"""
WITH request AS MATERIALIZED (
    SELECT t.lane_id, t.low - interval '1 second' AS low, t.budget
      FROM unnest($1::bigint[], $2::timestamptz[], $3::int[]) AS t (lane_id, low, budget)
     WHERE EXISTS (SELECT FROM ledger_incarnation i
                    WHERE i.id = $4::bigint AND i.ended_at IS NULL AND i.heartbeat_at > '-infinity')
       AND {_is_as_new(5)}
), picked AS MATERIALIZED (
    SELECT c.id
      FROM request q
     CROSS JOIN LATERAL (
        SELECT r.id FROM ledger_row r
         WHERE r.lane_id = q.lane_id AND r.state = 0
           AND r.due_at >= q.low AND r.due_at <= statement_timestamp()
         ORDER BY r.due_at, r.id
         LIMIT q.budget
           FOR UPDATE SKIP LOCKED) c
), claimed AS MATERIALIZED (
    UPDATE ledger_row r SET state = 1, claim_no = r.claim_no + 1, incarnation = $4::bigint
      FROM picked p WHERE r.id = ANY (ARRAY[p.id])
    RETURNING r.*
), taken AS MATERIALIZED (
    SELECT lane_id, max(low) AS low, sum(taken) AS taken
      FROM (SELECT lane_id, low, 0 AS taken FROM request
             UNION ALL
            SELECT lane_id, NULL, 1 FROM claimed) AS c
     GROUP BY lane_id
), plan AS MATERIALIZED (
    SELECT t.lane_id, t.taken, l.touch_no, l.next_due_at AS before,
           COALESCE(CASE WHEN t.low = '-infinity' OR l.waiting <= t.taken THEN f.due_at
                         ELSE LEAST(f.due_at, statement_timestamp() + interval '5 seconds') END,
                    'infinity') AS due_at
      FROM taken t
      JOIN ledger_lane l ON l.id = ANY (ARRAY[t.lane_id])
      LEFT JOIN LATERAL (
        SELECT w.due_at FROM ledger_row w
         WHERE w.lane_id = t.lane_id AND w.state = 0 AND w.due_at >= t.low
           AND w.id NOT IN (SELECT id FROM picked)
         ORDER BY w.due_at, w.id LIMIT 1) f ON true
), locked AS MATERIALIZED (
    SELECT k.id, p.taken, p.touch_no, p.due_at
      FROM plan p JOIN ledger_lane k ON k.id = ANY (ARRAY[p.lane_id])
     WHERE p.taken > 0 OR p.due_at <> p.before
     ORDER BY {LOCK_ORDER} FOR UPDATE OF k
), lanes AS (
    UPDATE ledger_lane l
       SET waiting = l.waiting - p.taken, leased = l.leased + p.taken,
           next_due_at = CASE WHEN l.touch_no = p.touch_no THEN p.due_at
                              ELSE LEAST(l.next_due_at, p.due_at) END
      FROM locked p
     WHERE l.id = ANY (ARRAY[p.id])
)
SELECT {columns(row="c", lane="l")}
  FROM claimed c JOIN ledger_lane l ON l.id = ANY (ARRAY[c.lane_id])
 ORDER BY c.due_at, c.id
"""  # noqa: S608 (constants of this package)

# Ends are true whatever became of the claim, and a row that was purged meanwhile must not come back
# (looked for only if a row was missing); only those who wait again are fenced. `state + 0`
# keeps the planner off the index of all leased rows: by id is the only sensible way.
SETTLE = f"""
WITH finished AS MATERIALIZED (
    DELETE FROM ledger_row WHERE id = ANY ($1::bigint[]) RETURNING lane_id, state
), not_undone AS (
    DELETE FROM queue_undo
     WHERE row_id = ANY ($1::bigint[])
       AND (SELECT count(*) FROM finished) < cardinality($1::bigint[])
), deferred AS MATERIALIZED (
    UPDATE ledger_row r
       SET state = d.state, incarnation = NULL, attempt = r.attempt + d.counts,
           due_at = statement_timestamp() + make_interval(secs => d.delay_s),
           reason = d.reason,
           last_reply = CASE WHEN d.reply = '' THEN r.last_reply ELSE d.reply END,
           pinned_source_id = d.source_id
      FROM unnest($2::bigint[], $3::int[], $4::float8[], $5::text[], $6::text[], $7::int[],
                  $8::int[], $9::smallint[])
        AS d (id, claim_no, delay_s, reason, reply, source_id, counts, state)
     WHERE r.id = ANY (ARRAY[d.id]) AND r.claim_no = d.claim_no AND r.state + 0 = 1
    RETURNING r.lane_id, r.state, r.due_at
), delta AS MATERIALIZED (
    SELECT lane_id, sum(waiting) AS waiting, sum(leased) AS leased, sum(unknown) AS unknown,
           min(due_at) AS due_at
      FROM (SELECT lane_id, -(state = 0)::int AS waiting, -(state = 1)::int AS leased,
                   -(state = 2)::int AS unknown, timestamptz 'infinity' AS due_at
              FROM finished
             UNION ALL
            SELECT lane_id, (state = 0)::int, -1, (state = 2)::int,
                   CASE WHEN state = 0 THEN due_at ELSE 'infinity' END
              FROM deferred) AS c
     GROUP BY lane_id
), {APPLY_DELTA}, told AS (
    INSERT INTO ledger_outbox (event_count, body)
    SELECT $10::int, $11::bytea WHERE $10::int > 0
)
SELECT (SELECT count(*) FROM finished) + (SELECT count(*) FROM deferred)
"""  # noqa: S608 (constants of this package)

_LANE = """
SELECT l.id, l.sender_id, l.account_id, l.campaign_id, l.mail_class, l.site, l.tls_need, l.isp_id,
       l.waiting,
       EXISTS (SELECT FROM (SELECT r.attempt FROM ledger_row r
                             WHERE r.lane_id = l.id AND r.state = 0
                               AND r.due_at <= statement_timestamp()
                             ORDER BY r.due_at, r.id LIMIT 1) AS f
                WHERE f.attempt > 0)
  FROM ledger_lane l
"""


def _not_held(first: int) -> str:
    """Return the condition that no hold covers a lane; HeldLanes are four parameters from here.

    A subquery is hashed. `<> ALL` of a parameter is not: 10,000 lanes beside as many holds took
    0.6 s to look at.
    """
    names = ("sender_id", "account_id", "campaign_id", "isp_id")
    return " AND ".join(
        f"l.{name} NOT IN (SELECT unnest(${first + n}::int[]))" for n, name in enumerate(names)
    )


# Lanes of a class or a need that a newer version has brought are left to it: what they ask for is
# not known here, and must not be taken for less.
_UNDERSTOOD = " AND ".join(
    f"l.{name} IN ({', '.join(str(one.value) for one in words)})"
    for name, words in (("mail_class", MailClass), ("tls_need", TlsNeed))
)

DUE_LANES = f"""{_LANE}
 WHERE l.next_due_at <= statement_timestamp() AND l.waiting > 0 AND l.site <> ''
   AND {_UNDERSTOOD} AND {_not_held(3)}
 ORDER BY l.next_due_at, l.id LIMIT $1::int OFFSET $2::int
"""

LANES_OF_SITES = f"""{_LANE}
 WHERE l.site = ANY ($1::text[]) AND l.sender_id = ANY ($2::int[])
   AND l.mail_class = $3::smallint AND l.site <> ''
   AND l.next_due_at <= statement_timestamp() AND l.waiting > 0
   AND {_UNDERSTOOD} AND {_not_held(4)}
 ORDER BY l.next_due_at
"""

ROWS_BY_ID = f"""
SELECT {columns(row="r", lane="l")}
  FROM ledger_row r JOIN ledger_lane l ON l.id = ANY (ARRAY[r.lane_id])
 WHERE r.id = ANY ($1::bigint[])
 ORDER BY r.id
"""  # noqa: S608 (constants of this package)

LEASED_IDS = f"""
SELECT id FROM ledger_row WHERE state = 1 AND incarnation = $1::bigint AND {_is_as_new(2)}
"""  # noqa: S608 (constants of this module)

REGISTER = """
INSERT INTO ledger_incarnation (node, process, journal) VALUES ($1::text, $2::text, $3::text)
RETURNING id
"""

# Former lives ($1) of a process that goes on in another: in a restored ledger they seem to be open,
# and nobody else may end them while it lives.
LEAVE = """
UPDATE ledger_incarnation SET ended_at = statement_timestamp()
 WHERE id = ANY ($1::bigint[]) AND process = $2::text AND ended_at IS NULL
   AND EXISTS (SELECT FROM ledger_restore WHERE noticed_at > heartbeat_at)
"""

# A heartbeat of '-infinity' is a life that was declared dead: it takes no rows and cannot be
# renewed.
HEARTBEAT = """
UPDATE ledger_incarnation SET heartbeat_at = statement_timestamp()
 WHERE id = $1::bigint AND ended_at IS NULL AND heartbeat_at > '-infinity'
RETURNING extract(epoch FROM clock_timestamp())::float8
"""

# The same, counted for the node's witness ($2). A ledger that does not know of the last one ($3)
# has been restored: there is nothing to renew.
WITNESSED_HEARTBEAT = """
WITH alive AS (
    UPDATE ledger_incarnation i SET heartbeat_at = statement_timestamp()
     WHERE i.id = $1::bigint AND i.ended_at IS NULL AND i.heartbeat_at > '-infinity'
       AND ($3::bigint = 0 OR EXISTS (SELECT FROM ledger_witness w
                                       WHERE w.name = $2::text AND w.beats >= $3::bigint))
    RETURNING 1
), counted AS (
    INSERT INTO ledger_witness AS w (name, beats) SELECT $2::text, 1 FROM alive
        ON CONFLICT (name) DO UPDATE SET beats = w.beats + 1, beat_at = statement_timestamp()
    RETURNING w.beats
)
SELECT extract(epoch FROM clock_timestamp())::float8, beats FROM counted
"""

RETIRE = """
WITH held AS MATERIALIZED (
    SELECT count(*) AS rows FROM ledger_row WHERE state = 1 AND incarnation = $1::bigint
), ended AS (
    UPDATE ledger_incarnation SET ended_at = statement_timestamp()
     WHERE id = $1::bigint AND ended_at IS NULL AND (SELECT rows FROM held) = 0
)
SELECT rows FROM held
"""

STOPPED = """
SELECT t.account_id, t.hash
  FROM unnest($1::int[], $2::text[]) AS t (account_id, hash)
 WHERE EXISTS (SELECT FROM stop_entry s
                WHERE s.recipient_hash = ANY (ARRAY[t.hash])
                  AND s.account_id IN (0, t.account_id)
                  AND (s.expires_at IS NULL OR s.expires_at > statement_timestamp()))
"""

CLAIMS = {"claim": CLAIM, "leased_ids": LEASED_IDS, "rows_by_id": ROWS_BY_ID}
SETTLES = {"settle": SETTLE}
LOOKS = {
    "due_lanes": DUE_LANES,
    "lanes_of_sites": LANES_OF_SITES,
    "rows_by_id": ROWS_BY_ID,
    "register": REGISTER,
    "leave": LEAVE,
    "heartbeat": HEARTBEAT,
    "witnessed_heartbeat": WITNESSED_HEARTBEAT,
    "retire": RETIRE,
    "stopped": STOPPED,
}
