"""Policy, time and the queue in SQL, as delivery and upkeep use it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from mailcore.disposition import Defer, Settlement
from mailcore.envelope import QueuedRow
from mailcore.holds import HeldLanes, HoldSet
from mailcore.outcome import MailClass, TlsNeed
from mailcore.policy.model import PolicySnapshot
from mailcore.reply import SmtpReply

NO_LANES = HeldLanes()


class PolicySource(Protocol):
    """The snapshot in force in this process."""

    def current(self) -> PolicySnapshot:
        """Return it; it never changes while held."""
        ...


class HoldSource(Protocol):
    """The holds in force, as this process knows them: announced over Redis, read every 2 s."""

    def current(self) -> HoldSet:
        """Return them; another object if and only if they have changed."""
        ...


class Clock(Protocol):
    """Time as the ledger sees it, and time that only goes forward."""

    def now(self) -> datetime:
        """Return aware UTC, corrected to the database's clock."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never jump."""
        ...


@dataclass(frozen=True, slots=True)
class DueLane:
    """A lane that has rows due now. `has_retries` tells deferred bulk from new."""

    id: int
    sender_id: int
    account_id: int
    campaign_id: int
    mail_class: MailClass
    site: str
    tls_need: TlsNeed
    isp_id: int
    waiting: int
    has_retries: bool


@dataclass(frozen=True, slots=True)
class LaneClaim:
    """How many rows to take from a lane, from which due time on (None: from the first)."""

    lane_id: int
    budget: int
    low: datetime | None = None


@dataclass(frozen=True, slots=True)
class DomainRoute:
    """What routing found out about one recipient domain."""

    domain: str
    site: str
    isp_id: int
    ttl_s: float


class Ledger(Protocol):
    """The queue in SQL, as the delivery processes use it."""

    async def register(self, *, node: str, process: str, journal: str) -> int:
        """Open an incarnation of this process and return its number."""
        ...

    async def heartbeat(self, incarnation: int) -> bool:
        """Renew the lease; False if it was declared dead meanwhile."""
        ...

    async def retire(self, incarnation: int) -> None:
        """Close the incarnation; it must hold no rows."""
        ...

    async def try_lead(self, role: str) -> bool:
        """Take or keep a session lock that one process of the fleet may hold at a time."""
        ...

    async def due_lanes(
        self, *, limit: int, skip: int = 0, held: HeldLanes = NO_LANES
    ) -> Sequence[DueLane]:
        """Return routed lanes with rows due and not held, those due longest first, after the
        first `skip`."""
        ...

    async def lanes_of_sites(
        self,
        sites: Sequence[str],
        *,
        mail_class: MailClass,
        sender_ids: Sequence[int],
        held: HeldLanes = NO_LANES,
    ) -> Sequence[DueLane]:
        """Return lanes of these sites, class and senders with rows due and not held."""
        ...

    async def claim(
        self, requests: Sequence[LaneClaim], *, incarnation: int
    ) -> Sequence[QueuedRow]:
        """Lease up to each lane's budget of due rows and raise their claim number."""
        ...

    async def settle(self, settlement: Settlement) -> int:
        """Apply in one transaction; return how many rows changed."""
        ...

    async def rows_by_id(self, row_ids: Sequence[int]) -> Sequence[QueuedRow]:
        """Return those of these rows that still exist."""
        ...

    async def unrouted_domains(self, *, limit: int) -> Sequence[str]:
        """Return recipient domains that wait for routing and are due, oldest first."""
        ...

    async def apply_routes(self, routes: Sequence[DomainRoute]) -> int:
        """Move the rows of these domains into lanes of their sites; remember the routes."""
        ...

    async def postpone_domains(
        self, domains: Sequence[str], *, delay_s: float, reply: SmtpReply
    ) -> int:
        """Let unrouted rows of these domains wait, with the reason DNS gave."""
        ...

    async def unrouted_rows(self, domain: str, *, limit: int) -> Sequence[QueuedRow]:
        """Return unrouted rows of a domain (to finish them when it takes no mail)."""
        ...

    async def return_strays(self, rows: Sequence[QueuedRow], route: DomainRoute) -> int:
        """Let leased rows whose domain belongs to another site now wait in its lanes, due now."""
        ...

    async def park(self, rows: Sequence[QueuedRow]) -> int:
        """Let leased rows of held recipient domains wait, unrouted, with the reason `held`, until
        their hold is over; return how many were still ours and held."""
        ...

    async def park_domains(self, domains: Sequence[str]) -> int:
        """The same for the unrouted rows of these domains that wait and are due."""
        ...

    async def stopped(self, recipients: Collection[tuple[int, str]]) -> Collection[tuple[int, str]]:
        """Return which of these (account, recipient hash) pairs are on a stop list now."""
        ...


@dataclass(frozen=True, slots=True)
class DeadIncarnation:
    """A process life whose lease ran out: its number, where it lived, its journal's name."""

    number: int
    node: str
    process: str
    journal: str


class Chores(Protocol):
    """The queue in SQL, as upkeep uses it. Plain, for threads. Raises StoreUnavailable."""

    def select_expired(self, *, incarnation: int, limit: int) -> Sequence[QueuedRow]:
        """Lease waiting and unknown rows whose lifetime is over."""
        ...

    def unknown_due(self, *, incarnation: int, limit: int) -> Sequence[QueuedRow]:
        """Lease rows of unknown outcome whose due time has come."""
        ...

    def dead_incarnations(
        self, *, node: str, lease_s: float, lost_after_s: float
    ) -> Sequence[DeadIncarnation]:
        """Return those of this node past their lease, and those of others lost for long."""
        ...

    def reclaim(self, incarnation: int) -> int:
        """Let all rows an incarnation still leases wait, due now; return how many."""
        ...

    def release(self, incarnation: int) -> int:
        """The same for one that lives on; rows of unknown outcome are unknown as before."""
        ...

    def doubt(self, defer: Defer, *, events: bytes, event_count: int) -> bool:
        """Let a row be unknown whose claim was taken back, if nobody has claimed it since."""
        ...

    def bury(self, incarnation: int) -> None:
        """End an incarnation for good."""
        ...

    def recount_lanes(self) -> int:
        """Count every lane's rows; mend counts that differ; return how many lanes did."""
        ...

    def unpark(self) -> int:
        """Let the parked rows of domains that are held no more wait for routing, due now; return
        how many."""
        ...

    def prune_undo(self, kept_s: float) -> int:
        """Delete undo records older than this; with them goes the claim on their content."""
        ...

    def prune_outbox(self, kept_s: float) -> int:
        """Delete batches older than this that every consumer has seen."""
        ...

    def prune_idempotency(self, kept_s: float) -> int:
        """Delete answers older than this."""
        ...

    def prune_routes(self) -> int:
        """Delete routes that are no longer valid."""
        ...

    def drop_empty_lanes(self) -> int:
        """Delete lanes that have been empty for a while."""
        ...
