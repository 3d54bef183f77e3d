"""Unrouted rows find their lanes, strays find back, rows of held domains are parked.

Gives    Routing (over a Session), STATEMENTS to prepare in it; PARKING, what `park` needs of them,
         for a session where it need not wait for moves
Takes    what DNS said about recipient domains
Raises   StoreUnavailable

Rows are moved a few thousand at a time, so that no lane is locked for long and a million rows of
one domain are no long transaction. Whatever stops half way is simply still unrouted. Parked rows
(docs/decisions/0009) are unrouted too, with the reason `held`: no statement here but those that
park and unpark looks at them.
"""

from __future__ import annotations

from collections.abc import Sequence

from mailcore.envelope import QueuedRow
from mailcore.ports import DomainRoute
from mailio.ledger import arrays
from mailio.ledger.delivery_sql import APPLY_DELTA, LANE_KEY
from mailio.ledger.pool import Session
from mailio.ledger.rows import columns, to_row

_CHUNK = 2000
_CHUNKS_A_TURN = 25
# How many rows are looked at for each domain wanted; enough unless one domain fills the front.
_WINDOW = 20

DOMAINS = """
SELECT unrouted_domain
  FROM (SELECT unrouted_domain, due_at FROM ledger_row
         WHERE unrouted_domain IS NOT NULL AND state = 0 AND reason <> 'held'
           AND due_at <= statement_timestamp()
         ORDER BY due_at LIMIT $1::int) AS front
 GROUP BY unrouted_domain ORDER BY min(due_at), unrouted_domain LIMIT $2::int
"""

ROWS = f"""
SELECT {columns(row="r", lane="l")}
  FROM ledger_row r JOIN ledger_lane l ON l.id = r.lane_id
 WHERE r.unrouted_domain = $1::text AND r.state = 0 AND r.reason <> 'held'
   AND r.due_at <= statement_timestamp()
 ORDER BY r.due_at LIMIT $2::int
"""  # noqa: S608 (constants of this package)

REMEMBER = """
INSERT INTO ledger_route AS k (domain, site, isp_id, expires_at)
SELECT t.domain, t.site, t.isp_id, statement_timestamp() + make_interval(secs => t.ttl_s)
  FROM unnest($1::text[], $2::text[], $3::int[], $4::float8[]) AS t (domain, site, isp_id, ttl_s)
 ORDER BY t.domain
ON CONFLICT (domain) DO UPDATE
   SET site = excluded.site, isp_id = excluded.isp_id, expires_at = excluded.expires_at
"""

# The rows in `picked` change lanes: their old ones are locked and lose them, those of the new site
# that are alike otherwise (made if need be) gain them. Unrouted lanes come first in key order, so
# they are locked first, be they old or new; between two routed lanes a deadlock is possible and
# tried again. What a lane is of never changes, so it may be read before the lane is locked.
_OLD = f"""
old AS MATERIALIZED (
    SELECT l.* FROM ledger_lane l WHERE l.id IN (SELECT lane_id FROM picked) {{after}}
     ORDER BY {LANE_KEY} FOR UPDATE
)"""  # noqa: S608 (constants of this package)
_TARGET = f"""
target AS MATERIALIZED (
    INSERT INTO ledger_lane AS l ({LANE_KEY}, isp_id, waiting, next_due_at, touch_no)
    SELECT p.site, o.sender_id, o.account_id, o.campaign_id, o.mail_class, o.tls_need,
           max(p.isp_id), count(*), min(p.due_at), 1
      FROM picked p JOIN {{lanes}} o ON o.id = p.lane_id
     GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6
    ON CONFLICT ({LANE_KEY}) DO UPDATE
       SET waiting = l.waiting + excluded.waiting, isp_id = excluded.isp_id,
           next_due_at = LEAST(l.next_due_at, excluded.next_due_at),
           touch_no = l.touch_no + 1, used_at = statement_timestamp()
    RETURNING id, {LANE_KEY}
)"""  # noqa: S608 (constants of this package)
_AFTER_TARGET = "AND (SELECT count(*) FROM target) > 0"
_OLD_FIRST = ",".join((_OLD.format(after=""), _TARGET.format(lanes="old")))
_TARGET_FIRST = ",".join((_TARGET.format(lanes="ledger_lane"), _OLD.format(after=_AFTER_TARGET)))
_MOVE = """
moved AS (
    UPDATE ledger_row r
       SET lane_id = t.id, state = 0, incarnation = NULL, unrouted_domain = p.unrouted_domain,
           due_at = p.due_at, reason = p.reason
      FROM picked p
      JOIN old o ON o.id = p.lane_id
      JOIN target t ON t.site = p.site AND t.sender_id = o.sender_id
                   AND t.account_id = o.account_id AND t.campaign_id = o.campaign_id
                   AND t.mail_class = o.mail_class AND t.tls_need = o.tls_need
     WHERE r.id = p.id
    RETURNING r.id
), left_lane AS (
    UPDATE ledger_lane l
       SET waiting = l.waiting - c.waiting, leased = l.leased - c.leased
      FROM (SELECT lane_id, count(*) FILTER (WHERE state = 0) AS waiting,
                   count(*) FILTER (WHERE state = 1) AS leased
              FROM picked GROUP BY lane_id) AS c
     WHERE l.id = c.lane_id
)
"""

# A scheduled row keeps its time; one that waited only for DNS is due now.
MOVE_ROUTED = f"""
WITH picked AS MATERIALIZED (
    SELECT r.id, r.lane_id, r.state, t.site COLLATE "C" AS site, t.isp_id,
           NULL AS unrouted_domain,
           CASE WHEN r.reason = 'dns' THEN statement_timestamp() ELSE r.due_at END AS due_at,
           CASE WHEN r.attempt > 0 THEN 'retry'
                WHEN r.reason <> 'dns' AND r.due_at > statement_timestamp() THEN 'scheduled'
                ELSE 'new' END AS reason
      FROM unnest($1::text[], $2::text[], $3::int[]) AS t (domain, site, isp_id)
      JOIN ledger_row r ON r.unrouted_domain = t.domain AND r.state = 0 AND r.reason <> 'held'
     LIMIT $4::int
       FOR UPDATE OF r SKIP LOCKED
), {_OLD_FIRST}, {_MOVE}
SELECT count(*) FROM moved
"""  # noqa: S608 (constants of this package)

MOVE_STRAYS = f"""
WITH picked AS MATERIALIZED (
    SELECT r.id, r.lane_id, r.state, $3::text COLLATE "C" AS site, $4::int AS isp_id,
           NULL AS unrouted_domain, statement_timestamp() AS due_at, 'returned' AS reason
      FROM unnest($1::bigint[], $2::int[]) AS t (id, claim_no)
      JOIN ledger_row r ON r.id = t.id AND r.claim_no = t.claim_no AND r.state + 0 = 1
      JOIN ledger_lane l ON l.id = r.lane_id AND l.site <> $3::text
       FOR UPDATE OF r
), {_OLD_FIRST}, {_MOVE}
SELECT count(*) FROM moved
"""  # noqa: S608 (constants of this package)

# Whoever parks may know of a hold that was released meanwhile. Asked here, in the statement that
# parks, a row can only slip in beside a release that commits while the statement runs; unparking
# goes by the rows that are parked and finds it.
_IS_HELD = """
EXISTS (SELECT FROM queue_hold h
         WHERE h.scope = 'domain' AND h.target = t.domain AND h.released_at IS NULL
           AND (h.ends_at IS NULL OR h.ends_at > statement_timestamp()))"""

# Due when it expires: until then nobody looks at the lane for it, and then it is ended.
PARK = f"""
WITH picked AS MATERIALIZED (
    SELECT r.id, r.lane_id, r.state, '' COLLATE "C" AS site, 0 AS isp_id,
           t.domain AS unrouted_domain, r.expires_at AS due_at, 'held' AS reason
      FROM unnest($1::bigint[], $2::int[], $3::text[]) AS t (id, claim_no, domain)
      JOIN ledger_row r ON r.id = t.id AND r.claim_no = t.claim_no AND r.state + 0 = 1
      JOIN ledger_lane l ON l.id = r.lane_id AND l.site <> ''
     WHERE {_IS_HELD}
       FOR UPDATE OF r
), {_TARGET_FIRST}, {_MOVE}
SELECT id FROM moved
"""  # noqa: S608 (constants of this package)

# They are in an unrouted lane already: no count changes.
PARK_DOMAINS = f"""
WITH picked AS MATERIALIZED (
    SELECT r.id
      FROM unnest($1::text[]) AS t (domain)
      JOIN ledger_row r ON r.unrouted_domain = t.domain AND r.state = 0 AND r.reason <> 'held'
     WHERE r.due_at <= statement_timestamp() AND {_IS_HELD}
     LIMIT $2::int
       FOR UPDATE OF r SKIP LOCKED
), parked AS (
    UPDATE ledger_row r SET due_at = r.expires_at, reason = 'held'
      FROM picked p WHERE r.id = p.id
    RETURNING 1
)
SELECT count(*) FROM parked
"""  # noqa: S608 (constants of this package)

POSTPONE = f"""
WITH picked AS MATERIALIZED (
    SELECT r.id, r.lane_id FROM ledger_row r
     WHERE r.unrouted_domain = ANY ($1::text[]) AND r.state = 0 AND r.reason <> 'held'
       AND r.due_at <= $5::timestamptz
     LIMIT $4::int
       FOR UPDATE SKIP LOCKED
), late AS MATERIALIZED (
    UPDATE ledger_row r
       SET due_at = statement_timestamp() + make_interval(secs => $2::float8), reason = 'dns',
           last_reply = $3::text
      FROM picked p WHERE r.id = p.id
    RETURNING r.lane_id, r.due_at
), delta AS MATERIALIZED (
    SELECT lane_id, 0 AS waiting, 0 AS leased, 0 AS unknown, min(due_at) AS due_at
      FROM late GROUP BY lane_id
), {APPLY_DELTA}
SELECT count(*) FROM late
"""  # noqa: S608 (constants of this package)

STATEMENTS = {
    "unrouted_domains": DOMAINS,
    "unrouted_rows": ROWS,
    "remember_routes": REMEMBER,
    "move_routed": MOVE_ROUTED,
    "move_strays": MOVE_STRAYS,
    "postpone_domains": POSTPONE,
    "park_domains": PARK_DOMAINS,
}
PARKING = {"park": PARK}


class Routing:
    """The routing statements, on the thread of its session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def domains(self, limit: int) -> list[str]:
        """Return domains that wait for routing and are due, oldest first."""
        found = self._session.call("unrouted_domains", (limit * _WINDOW, limit))
        return [str(row[0]) for row in found]

    def rows(self, domain: str, limit: int) -> list[QueuedRow]:
        """Return unrouted rows of a domain that are due."""
        return [to_row(row) for row in self._session.call("unrouted_rows", (domain, limit))]

    def apply(self, found: Sequence[DomainRoute]) -> int:
        """Remember the routes, then move what waits for them; return how many rows moved."""
        by_domain = {route.domain: route for route in found if route.site}
        if not by_domain:
            return 0
        routes = list(by_domain.values())
        domains = arrays.texts([route.domain for route in routes])
        sites = arrays.texts([route.site for route in routes])
        isps = arrays.numbers([route.isp_id for route in routes])
        ttls = arrays.numbers([max(route.ttl_s, 0.0) for route in routes])
        self._session.call("remember_routes", (domains, sites, isps, ttls))
        return self._all("move_routed", (domains, sites, isps, _CHUNK))

    def postpone(self, domains: Sequence[str], delay_s: float, reply: str) -> int:
        """Let the due rows of these domains wait; return how many."""
        if not domains:
            return 0
        # A fixed bound: a delay of nothing must not find its own rows again.
        now = self._session.run("SELECT statement_timestamp()")[0][0]
        return self._all(
            "postpone_domains",
            (arrays.texts(domains), max(delay_s, 0.001), arrays.clean(reply), _CHUNK, now),
        )

    def return_strays(self, claims: Sequence[tuple[int, int]], route: DomainRoute) -> int:
        """Move leased rows to the lanes of a site, due now; return how many were still ours."""
        ordered = sorted(claims)
        found = self._session.call(
            "move_strays",
            (
                arrays.numbers([row_id for row_id, _ in ordered]),
                arrays.numbers([claim_no for _, claim_no in ordered]),
                route.site,
                route.isp_id,
            ),
        )
        return int(found[0][0])

    def park(self, claims: Sequence[tuple[int, int, str]]) -> list[int]:
        """Park leased rows, by id, claim number and domain; return which were ours and held."""
        ordered = sorted(claims)
        found = self._session.call(
            "park",
            (
                arrays.numbers([row_id for row_id, _, _ in ordered]),
                arrays.numbers([claim_no for _, claim_no, _ in ordered]),
                arrays.texts([domain for _, _, domain in ordered]),
            ),
        )
        return [int(row[0]) for row in found]

    def park_domains(self, domains: Sequence[str]) -> int:
        """Park due rows of held domains, so many that others have their turn; return how many."""
        asked = arrays.texts(domains)
        total = 0
        for _ in range(_CHUNKS_A_TURN):
            count = int(self._session.call("park_domains", (asked, _CHUNK))[0][0])
            total += count
            if count < _CHUNK:
                break
        return total

    def _all(self, name: str, params: Sequence[object]) -> int:
        total = 0
        while True:
            count = int(self._session.call(name, params)[0][0])
            total += count
            if count < _CHUNK:
                return total
