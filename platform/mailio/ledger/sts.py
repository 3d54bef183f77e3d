"""MTA-STS policies that the fleet has fetched, kept in PostgreSQL.

Gives    PgStsPolicies: read (what was written of late), write, forget
Takes    a libpq URL, policies
Raises   StoreUnavailable
Follows  RFC 8461 §5.1: a policy stays in force for its max_age
"""

from __future__ import annotations

import logging

from mailcore.security import StsError, StsPolicy, parse_sts_policy
from mailio.ledger.pool import Session

_READ = """
SELECT domain, policy_id, body, expires_ms, extract(epoch FROM written_at)::float8
  FROM sts_policy
 WHERE written_at > to_timestamp(%s::float8) AND expires_ms > %s::bigint
 ORDER BY written_at
"""
# Of two the one that was fetched later stays, whatever its id and end.
_WRITE = """
INSERT INTO sts_policy (domain, policy_id, mode, body, max_age_s, expires_ms)
VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (domain) DO UPDATE
   SET policy_id = excluded.policy_id, mode = excluded.mode, body = excluded.body,
       max_age_s = excluded.max_age_s, expires_ms = excluded.expires_ms,
       written_at = clock_timestamp()
 WHERE sts_policy.expires_ms - sts_policy.max_age_s * 1000::bigint
       <= excluded.expires_ms - excluded.max_age_s * 1000::bigint
"""
_FORGET = "DELETE FROM sts_policy WHERE expires_ms < %s::bigint"
# A row may be committed after one that was written later: look back this far.
_OVERLAP_S = 10.0

log = logging.getLogger(__name__)


class PgStsPolicies:
    """The fleet's memory of policies. Thread-safe."""

    def __init__(self, dsn: str) -> None:
        self._session = Session(dsn, role="mta-sts")
        self._read_to = 0.0

    def read(self, *, now_ms: int) -> list[StsPolicy]:
        """Return what was written since the last reading and has not expired; at first, all."""
        found = []
        rows = self._session.run(_READ, (self._read_to - _OVERLAP_S, now_ms))
        for domain, policy_id, body, expires_ms, written in rows:
            self._read_to = max(self._read_to, written)
            try:
                found.append(_policy(domain, policy_id, body, int(expires_ms)))
            except StsError as exc:
                log.error("a stored policy is no policy", extra={"domain": domain, "why": str(exc)})
        return found

    def write(self, policy: StsPolicy) -> None:
        """Keep a policy for all."""
        body = "\n".join(policy.body)
        self._session.run(
            _WRITE,
            (
                policy.domain,
                policy.policy_id,
                policy.mode.value,
                body,
                policy.max_age_s,
                policy.expires_ms,
            ),
        )

    def forget(self, *, now_ms: int) -> None:
        """Delete what has expired."""
        self._session.run(_FORGET, (now_ms,))

    def close(self) -> None:
        """Close the connection."""
        self._session.close()


def _policy(domain: str, policy_id: str, body: str, expires_ms: int) -> StsPolicy:
    policy = parse_sts_policy(body.encode(), domain=domain, policy_id=policy_id)
    return StsPolicy(
        policy.domain,
        policy.policy_id,
        policy.mode,
        policy.mx,
        policy.max_age_s,
        expires_ms,
        policy.body,
    )
