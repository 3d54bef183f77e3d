"""Holds: mail that must not be sent for now, by an operator's word, and what they cover.

Gives    HoldScope, Hold, HoldSet (all holds in force), HeldLanes
Raises   nothing
Follows  design.md section 6: no part of the policy; O(1) at any queue size, new mail included

A hold covers lanes (everything, pool, sender, account, campaign, ISP), sources (node, source) or
recipient domains. *Held* is derived: no row says it, except those of a held domain, which are
parked unrouted with the reason `held` (docs/decisions/0009).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Protocol, Self


class HoldScope(Enum):
    """What a hold covers."""

    EVERYTHING = "everything"
    NODE = "node"
    POOL = "pool"
    SOURCE = "source"
    SENDER = "sender"
    ACCOUNT = "account"
    CAMPAIGN = "campaign"
    ISP = "isp"
    DOMAIN = "domain"

    @property
    def is_named(self) -> bool:
        """Whether its target is a name (of a node, of a domain) and not a number."""
        return self in (HoldScope.NODE, HoldScope.DOMAIN)


@dataclass(frozen=True, slots=True)
class Hold:
    """One hold. `target_id` or, for nodes and domains, `target` says of what; neither for
    everything. `ends_at` None is until released."""

    id: int
    scope: HoldScope
    target_id: int
    target: str
    reason: str
    author: str
    placed_at: datetime
    ends_at: datetime | None = None


class Lane(Protocol):
    """What of a lane, or of a row, decides whether a hold covers it."""

    @property
    def sender_id(self) -> int: ...
    @property
    def account_id(self) -> int: ...
    @property
    def campaign_id(self) -> int: ...
    @property
    def isp_id(self) -> int: ...


@dataclass(frozen=True, slots=True)
class HeldLanes:
    """Lanes that are not to be looked at, by what they have in common."""

    senders: tuple[int, ...] = ()
    accounts: tuple[int, ...] = ()
    campaigns: tuple[int, ...] = ()
    isps: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class HoldSet:
    """All holds in force at one moment, by scope: target -> the oldest hold on it."""

    everything: Hold | None = None
    by_id: dict[tuple[HoldScope, int], Hold] = field(default_factory=dict)
    by_name: dict[tuple[HoldScope, str], Hold] = field(default_factory=dict)

    @classmethod
    def of(cls, holds: Iterable[Hold]) -> Self:
        """Put holds in order; those that have ended are the caller's to leave out."""
        everything: Hold | None = None
        by_id: dict[tuple[HoldScope, int], Hold] = {}
        by_name: dict[tuple[HoldScope, str], Hold] = {}
        for hold in sorted(holds, key=lambda each: each.id):
            if hold.scope is HoldScope.EVERYTHING:
                everything = everything or hold
            elif hold.scope.is_named:
                by_name.setdefault((hold.scope, hold.target), hold)
            else:
                by_id.setdefault((hold.scope, hold.target_id), hold)
        return cls(everything, by_id, by_name)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is held."""
        return self.everything is None and not self.by_id and not self.by_name

    @property
    def domains(self) -> frozenset[str]:
        """The recipient domains that are held."""
        return frozenset(name for scope, name in self.by_name if scope is HoldScope.DOMAIN)

    def of_lane(self, lane: Lane, *, pool_id: int) -> Hold | None:
        """Return the hold that covers a lane or a row of it, widest scope first, or None.

        `pool_id` is its sender's. Sources and domains are asked for apart.
        """
        if self.everything is not None:
            return self.everything
        if not self.by_id:
            return None
        return (
            self.by_id.get((HoldScope.POOL, pool_id))
            or self.by_id.get((HoldScope.SENDER, lane.sender_id))
            or self.by_id.get((HoldScope.ACCOUNT, lane.account_id))
            or self.by_id.get((HoldScope.CAMPAIGN, lane.campaign_id))
            or self.by_id.get((HoldScope.ISP, lane.isp_id))
        )

    def of_source(self, source_id: int, *, node: str) -> Hold | None:
        """Return the hold that keeps a source from sending, or None."""
        return (
            self.everything
            or self.by_name.get((HoldScope.NODE, node))
            or self.by_id.get((HoldScope.SOURCE, source_id))
        )

    def of_domain(self, domain: str) -> Hold | None:
        """Return the hold on a recipient domain (A-label form), or None."""
        return self.by_name.get((HoldScope.DOMAIN, domain))

    def lanes(self, *, held_senders: Iterable[int] = ()) -> HeldLanes:
        """Return what a look at the lanes leaves out; `held_senders` are those whose pool is
        held, or who have no source left."""

        def ids(scope: HoldScope) -> tuple[int, ...]:
            return tuple(sorted(number for its, number in self.by_id if its is scope))

        return HeldLanes(
            senders=tuple(sorted({*ids(HoldScope.SENDER), *held_senders})),
            accounts=ids(HoldScope.ACCOUNT),
            campaigns=ids(HoldScope.CAMPAIGN),
            isps=ids(HoldScope.ISP),
        )


NO_HOLDS = HoldSet()
