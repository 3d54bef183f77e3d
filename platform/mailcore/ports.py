"""What the engines ask of the world, and what they may be told instead.

Gives    Protocols for policy, clock, ledger, outbox, spool, journal, resolver, connector, shaper,
         bells, vault and statistics; the values that cross them; the errors they may raise
Raises   (adapters) TransportError and its kinds for a line to a mail server; StoreUnavailable for
         one of our own stores. Nothing else crosses a port.
Follows  style.md section 4; design.md sections 2-4

Ports of the delivery path are async: their adapters block on threads of their own, never on the
loop. Ports of event and upkeep work are plain, because their tasks run on Celery's threads.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from mailcore.bells import ApplyBell, DrainBell, Path, RouteBell, UpkeepBell
from mailcore.disposition import Defer as Defer
from mailcore.disposition import Finish as Finish
from mailcore.disposition import Settlement as Settlement
from mailcore.envelope import ContentRef, QueuedRow
from mailcore.errors import PostfleetError
from mailcore.outcome import MailClass, Outcome, Scope, SessionInfo, TlsNeed
from mailcore.policy.model import PolicySnapshot, TlsMode
from mailcore.reply import SmtpReply
from mailcore.routing.site import AddressAnswer as AddressAnswer
from mailcore.routing.site import DnsStatus as DnsStatus
from mailcore.routing.site import MxAnswer as MxAnswer
from mailcore.routing.site import MxHost as MxHost
from mailcore.shaping.strategy import Grant as Grant
from mailcore.shaping.strategy import Rate as Rate
from mailcore.stoplist import StopEntry
from mailcore.transaction import RecipientReply as RecipientReply
from mailcore.transaction import WireMessage as WireMessage

# ── errors ────────────────────────────────────────────────────────────────────────────────────


class StoreUnavailable(PostfleetError):
    """One of our own stores (`store` names it) cannot be used now; trying later may help."""

    def __init__(self, store: str, reason: str) -> None:
        super().__init__(f"{store}: {reason}")
        self.store = store
        self.reason = reason


class TransportError(PostfleetError):
    """The line to a mail server failed before it gave its verdict.

    `scope` says who has to wait, `stage` where it happened, `after_dot` whether the whole content
    had been sent. `decided` holds, in the order of the forward-paths, the replies of those who
    had theirs before; None for the others. Subclasses name the kind.
    """

    def __init__(
        self,
        reply: SmtpReply,
        *,
        scope: Scope,
        stage: str,
        after_dot: bool = False,
        decided: tuple[RecipientReply | None, ...] = (),
    ) -> None:
        super().__init__(f"{stage}: {reply}")
        self.reply = reply
        self.scope = scope
        self.stage = stage
        self.after_dot = after_dot
        self.decided = decided


class ConnectFailed(TransportError):
    """No connection, or no session: refused, unreachable, a 4yz/5yz greeting or EHLO."""


class TimedOut(TransportError):
    """A deadline passed."""


class TlsFailed(TransportError):
    """STARTTLS was refused or the handshake failed."""


class Disconnected(TransportError):
    """The peer closed or reset the connection, or spoke no SMTP."""


class Withheld(TransportError):
    """We stopped before the final dot, because our claim may no longer be ours."""


# ── policy and time ───────────────────────────────────────────────────────────────────────────


class PolicySource(Protocol):
    """The snapshot in force in this process."""

    def current(self) -> PolicySnapshot:
        """Return it; it never changes while held."""
        ...


class Clock(Protocol):
    """Time as the ledger sees it, and time that only goes forward."""

    def now(self) -> datetime:
        """Return aware UTC, corrected to the database's clock."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never jump."""
        ...


# ── the ledger ────────────────────────────────────────────────────────────────────────────────


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

    async def due_lanes(self, *, limit: int) -> Sequence[DueLane]:
        """Return routed lanes with rows due, those due longest first."""
        ...

    async def lanes_of_sites(
        self, sites: Sequence[str], *, mail_class: MailClass, sender_ids: Sequence[int]
    ) -> Sequence[DueLane]:
        """Return lanes of these sites, class and senders with rows due."""
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

    async def stopped(self, recipients: Collection[tuple[int, str]]) -> Collection[tuple[int, str]]:
        """Return which of these (account, recipient hash) pairs are on a stop list now."""
        ...


# ── content and outcomes on disk ──────────────────────────────────────────────────────────────


class SpoolReader(Protocol):
    """Content, as deliveries read it."""

    async def read_many(self, refs: Sequence[ContentRef]) -> Sequence[bytes | None]:
        """Return the bytes of each, None for what is missing or damaged."""
        ...


class SpoolWriter(Protocol):
    """Content, as intake writes it."""

    def append(self, contents: Sequence[bytes]) -> Sequence[ContentRef]:
        """Store each; return when all are durable. Raises StoreUnavailable."""
        ...


class Journal(Protocol):
    """Outcomes on this node's disk until they are settled. Appends never block."""

    def dot(self, row_id: int, claim_no: int) -> None:
        """Note that the final dot of this row's transaction is about to be sent."""
        ...

    def outcome(self, outcome: Outcome) -> None:
        """Note an outcome in the turn that read its reply."""
        ...

    def forget(self, claims: Sequence[tuple[int, int]]) -> None:
        """Drop what has been settled: (row id, claim number) pairs."""
        ...


# ── the wire ──────────────────────────────────────────────────────────────────────────────────


class Resolver(Protocol):
    """DNS with a TTL cache and a deadline on every question."""

    async def mx(self, domain: str) -> MxAnswer:
        """Return the exchangers of a mail domain."""
        ...

    async def addresses(self, host: str) -> AddressAnswer:
        """Return the addresses of a host."""
        ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and as whom to open a session."""

    host: str
    address: str
    port: int
    source_address: str
    ehlo_name: str
    tls: TlsMode


class WireTransaction(Protocol):
    """One transaction under way on a connection."""

    @property
    def content_sent(self) -> Awaitable[None]:
        """Done when the dot is written or will never be: the next transaction may begin."""
        ...

    @property
    def replies(self) -> Awaitable[tuple[RecipientReply, ...]]:
        """One reply per forward-path, in order; or a TransportError."""
        ...

    @property
    def dialogue_ms(self) -> int:
        """Time from MAIL to the last reply."""
        ...


class Connection(Protocol):
    """One SMTP session. It is used by one task; transactions may be chained."""

    @property
    def session(self) -> SessionInfo:
        """What the session is like."""
        ...

    @property
    def is_usable(self) -> bool:
        """Whether another transaction may begin."""
        ...

    def begin(self, message: WireMessage, *, before_dot: Callable[[], bool]) -> WireTransaction:
        """Start a transaction; the previous one's content must have been sent.

        `before_dot` is called in the turn that writes the final dot; if it returns False the
        dot is not sent, the connection is dropped and the replies raise Withheld.
        """
        ...

    async def close(self) -> None:
        """Say QUIT, wait a little, close."""
        ...


class Connector(Protocol):
    """Opens sessions: connect, greeting, EHLO, STARTTLS."""

    async def connect(self, endpoint: Endpoint) -> Connection:
        """Return a session ready for MAIL, or raise TransportError."""
        ...


# ── limits and bells ──────────────────────────────────────────────────────────────────────────


class Shaper(Protocol):
    """Slots, pacing and bell counters, shared by the fleet. Raises StoreUnavailable."""

    async def open_slots(
        self, path: Path, *, wanted: int, limit: int, mail_class: MailClass = MailClass.MAIN
    ) -> Sequence[str]:
        """Take up to `wanted` connection slots of a path that has `limit` (0: unlimited).

        One slot of each limit of two or more is kept for priority mail.
        """
        ...

    async def renew_slots(self, slots: Sequence[tuple[Path, str]]) -> Sequence[Path]:
        """Keep slots that are held; re-registers them if the store was emptied.

        Return those paths for which somebody was refused a slot lately: idle connections of
        these should be closed.
        """
        ...

    async def close_slots(self, slots: Sequence[tuple[Path, str]]) -> None:
        """Give slots back."""
        ...

    async def grant(
        self, path: Path, *, want: int, rate: Rate, mail_class: MailClass = MailClass.MAIN
    ) -> Grant:
        """Take allowance for up to `want` messages, as a schedule 1 % under the rate.

        A tenth of each rate is kept for priority mail.
        """
        ...

    async def return_grant(self, path: Path, *, unused: int, rate: Rate, ticket: str = "") -> None:
        """Give allowance back that was not used, of the grant that `ticket` names.

        Only the last grant of a path can be undone: what others were granted after it stands.
        """
        ...

    async def take_bells(
        self, paths: Sequence[tuple[Path, int]], *, mail_class: MailClass = MailClass.MAIN
    ) -> Sequence[Path]:
        """Return those paths with fewer outstanding bells than wanted, and count one more."""
        ...

    async def keep_bells(
        self, paths: Sequence[Path], *, mail_class: MailClass = MailClass.MAIN
    ) -> None:
        """Drains of these paths are alive: their bells go on counting."""
        ...

    async def drop_bells(
        self, paths: Sequence[Path], *, mail_class: MailClass = MailClass.MAIN
    ) -> None:
        """A drain of these paths is about to make its last claim."""
        ...

    async def cool(self, path: Path, *, seconds: float, reason: str) -> None:
        """Let a path rest (source id 0: the whole site); the ringer passes it over meanwhile."""
        ...

    async def cooling(self, paths: Sequence[Path]) -> Sequence[Path]:
        """Return those of these paths that rest now, by themselves or with their site."""
        ...


class Bells(Protocol):
    """Rings: publishes and waits for the broker's confirm. Raises StoreUnavailable."""

    async def drain(self, bell: DrainBell) -> None:
        """Ring for paths of a node."""
        ...

    async def route(self, bell: RouteBell) -> None:
        """Ring for unrouted lanes."""
        ...

    async def apply(self, bell: ApplyBell) -> None:
        """Ring for a consumer of the outbox."""
        ...

    async def upkeep(self, task: str, bell: UpkeepBell) -> None:
        """Ring for a chore."""
        ...


class Vault(Protocol):
    """The workers' only way to a secret. Never log or return what it gives."""

    async def open(self, secret_ref: str) -> bytes:
        """Return the secret in clear. Raises StoreUnavailable, or LookupError when gone."""
        ...


# ── upkeep ────────────────────────────────────────────────────────────────────────────────────


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

    def bury(self, incarnation: int) -> None:
        """End an incarnation for good."""
        ...

    def recount_lanes(self) -> int:
        """Count every lane's rows; mend counts that differ; return how many lanes did."""
        ...

    def segments_in_use(self, segments: Sequence[int]) -> Collection[int]:
        """Return those of these spool segments that a row points at."""
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


class Recovery(Protocol):
    """What a dead process's journal tells."""

    @property
    def outcomes(self) -> Sequence[Outcome]:
        """Outcomes that may not have been settled."""
        ...

    @property
    def dots(self) -> Sequence[tuple[int, int]]:
        """(row id, claim number) of transactions whose dot may have been sent."""
        ...


class JournalShelf(Protocol):
    """The journals on this node's disk. Plain, for threads."""

    def is_alive(self, name: str) -> bool:
        """Whether the process that owns it lives (it holds its lock)."""
        ...

    def recover(self, name: str) -> Recovery | None:
        """Return what a dead process left; None if it lives or left nothing."""
        ...

    def discard(self, name: str) -> None:
        """Delete it, once it is settled."""
        ...


class SpoolShelf(Protocol):
    """The segments on this node's disk. Plain, for threads."""

    def sealed_segments(self, *, older_than_s: float) -> Sequence[int]:
        """Return segments nobody writes to any more, and has not for this long."""
        ...

    def delete(self, segments: Sequence[int]) -> Sequence[int]:
        """Delete them; return those that are gone."""
        ...


# ── events ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class OutboxCursor:
    """How far a consumer has read: (transaction, row). Transactions commit out of order, so a
    row alone is no cursor."""

    xid: int
    row_id: int


@dataclass(frozen=True, slots=True)
class OutboxBatch:
    """One outbox row: the events of one accept or settle."""

    cursor: OutboxCursor
    event_count: int
    body: bytes


class Outbox(Protocol):
    """Events until every consumer has them. Plain, for tasks. Raises StoreUnavailable."""

    def lead(self, consumer: str) -> bool:
        """Take the consumer's lock on this session; False if another process applies."""
        ...

    def release(self, consumer: str) -> None:
        """Give the lock back."""
        ...

    def read(self, consumer: str, *, limit: int) -> Sequence[OutboxBatch]:
        """Return batches after the consumer's cursor whose order is settled."""
        ...

    def advance(self, consumer: str, cursor: OutboxCursor) -> None:
        """Move the cursor."""
        ...

    def refuse(self, consumer: str, batch: OutboxBatch, *, reason: str) -> None:
        """Set a batch aside that this consumer can never read; does not move the cursor."""
        ...


class Statistics(Protocol):
    """The events for good, and what is computed from them. Raises StoreUnavailable."""

    def insert(self, bodies: Sequence[bytes]) -> int:
        """Store the events of outbox bodies; a repeat changes no count. Return how many."""
        ...

    def touch(self, minutes: Sequence[int]) -> None:
        """Note that the roll-ups of these minutes (Unix time // 60) must be computed again."""
        ...

    def touched(self) -> Sequence[int]:
        """Return the minutes that were touched and not recomputed since."""
        ...

    def recompute(self, minutes: Sequence[int]) -> None:
        """Compute the roll-ups of these minutes again from the events."""
        ...

    def trace(self, message_id: UUID) -> Sequence[dict[str, object]]:
        """Return the distinct events of a message, oldest first, as rows of `events.Event`."""
        ...


class StopLists(Protocol):
    """Who must not be mailed, as events add to it. Raises StoreUnavailable."""

    def add(self, entries: Sequence[StopEntry]) -> int:
        """Add those that are not there yet; return how many that were."""
        ...
