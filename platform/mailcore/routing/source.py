"""Which source of a pool a lane, or a retry, is sent from.

Gives    Candidate, candidates, choose_source, choose_retry_source
Takes    members of a pool, what allowance each has now, a draw from [0, 1)
Raises   nothing; None when no source may send
Follows  design.md section 3 step 3; reference/mta-model.md §7.1 (retry modes)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mailcore.policy.model import PolicySnapshot
from mailcore.policy.words import RetryMode


@dataclass(frozen=True, slots=True)
class Candidate:
    """An active source of a pool, with the node it lives on."""

    source_id: int
    node: str
    weight: int
    strategy_id: int = 0


def candidates(policy: PolicySnapshot, pool_id: int) -> tuple[Candidate, ...]:
    """Return the active sources of a pool, in the order of their ids."""
    pool = policy.pools.get(pool_id)
    if pool is None:
        return ()
    found = []
    for member in pool.members:
        source = policy.sources.get(member.source_id)
        if source is not None and source.is_active and member.weight > 0:
            found.append(Candidate(source.id, source.node, member.weight, member.strategy_id))
    return tuple(sorted(found, key=lambda candidate: candidate.source_id))


def choose_source(
    members: Sequence[Candidate],
    *,
    draw: float,
    allowance: Mapping[int, float] | None = None,
    pinned: int | None = None,
) -> int | None:
    """Return the source to send from, or None when none has allowance.

    Each source's chance is its weight times its allowance (None: all have the same). A pinned
    source is the only answer while it is active in the pool, even if it has to wait: None then.
    One that has left the pool pins nothing.
    """
    if pinned is not None and any(member.source_id == pinned for member in members):
        return pinned if allowance is None or allowance.get(pinned, 0.0) > 0 else None
    return _weighted(
        members, draw, lambda m: 1.0 if allowance is None else allowance.get(m.source_id, 0.0)
    )


def choose_retry_source(
    members: Sequence[Candidate], *, mode: RetryMode, tried: int, draw: float
) -> int | None:
    """Return the source a retry is pinned to, or None to leave the choice to the ringer.

    Another source is named only where the pool has one that the mode allows.
    """
    if mode is RetryMode.SAME_IP:
        return tried if any(member.source_id == tried for member in members) else None
    others = [member for member in members if member.source_id != tried]
    if mode is RetryMode.OTHER_IP_SAME_NODE:
        node = next((member.node for member in members if member.source_id == tried), None)
        others = [member for member in others if member.node == node]
    return _weighted(others, draw, lambda member: 1.0)


def _weighted(
    members: Sequence[Candidate], draw: float, share: Callable[[Candidate], float]
) -> int | None:
    weights = [(member.source_id, member.weight * max(0.0, share(member))) for member in members]
    usable = [(source_id, weight) for source_id, weight in weights if weight > 0]
    rest = draw * sum(weight for _, weight in usable)
    for source_id, weight in usable:
        rest -= weight
        if rest < 0:
            return source_id
    return usable[-1][0] if usable else None
