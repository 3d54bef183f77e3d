"""What holds leave over: the sources a pool may still send from, the senders nobody sends for.

Gives    sources_left, held_senders, hold_on
Takes    the policy, all holds in force
Raises   nothing
Follows  design.md section 6 (scopes of a hold); docs/decisions/0009
"""

from __future__ import annotations

from mailcore.envelope import QueuedRow
from mailcore.holds import Hold, HoldScope, HoldSet
from mailcore.policy.model import PolicySnapshot, Source
from mailcore.routing.source import Candidate, candidates


def sources_left(policy: PolicySnapshot, holds: HoldSet, pool_id: int) -> tuple[Candidate, ...]:
    """Return the active sources of a pool that no hold keeps from sending."""
    if holds.is_empty:
        return candidates(policy, pool_id)
    if (HoldScope.POOL, pool_id) in holds.by_id:
        return ()
    return tuple(
        candidate
        for candidate in candidates(policy, pool_id)
        if holds.of_source(candidate.source_id, node=candidate.node) is None
    )


def held_senders(policy: PolicySnapshot, holds: HoldSet) -> list[int]:
    """Return the senders that could send but for a hold on their pool or on all its sources."""
    if holds.is_empty:
        return []
    return [
        sender.id
        for sender in policy.senders.values()
        if candidates(policy, sender.pool_id) and not sources_left(policy, holds, sender.pool_id)
    ]


def hold_on(
    row: QueuedRow, policy: PolicySnapshot, holds: HoldSet, *, source: Source
) -> Hold | None:
    """Return the hold that forbids to begin with this row from this source now, or None."""
    if holds.is_empty:
        return None
    sender = policy.senders.get(row.sender_id)
    return (
        holds.of_lane(row, pool_id=sender.pool_id if sender is not None else 0)
        or holds.of_source(source.id, node=source.node)
        or holds.of_domain(row.recipient.domain)
    )
