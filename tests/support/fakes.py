"""Fakes of the ports the delivery engines see: a queue in memory, receivers that follow a script.

They keep the ports' promises (claims are leased and fenced, finishing is not), so that a test of an
engine shows behaviour and not calls.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from mailcore.address import ForwardPath, ReversePath
from mailcore.bells import ApplyBell, DrainBell, Path, RouteBell, UpkeepBell
from mailcore.envelope import ContentRef, QueuedRow, uuid7
from mailcore.events import Event, decode_lines
from mailcore.outcome import (
    MailClass,
    Outcome,
    RowState,
    Scope,
    SessionInfo,
    TlsNeed,
    WaitReason,
)
from mailcore.policy.model import (
    Account,
    BouncePattern,
    DefaultRule,
    Isp,
    Node,
    PolicySnapshot,
    Pool,
    PoolMember,
    RetryMode,
    RetryRule,
    RetryType,
    Sender,
    SendingDomain,
    Source,
    Strategy,
)
from mailcore.ports import (
    AddressAnswer,
    DnsStatus,
    DomainRoute,
    DueLane,
    Endpoint,
    Grant,
    LaneClaim,
    MxAnswer,
    MxHost,
    Rate,
    RecipientReply,
    Settlement,
    StoreUnavailable,
    TransportError,
    WireMessage,
    Withheld,
)
from mailcore.reply import SmtpReply
from workers.engines.context import DeliverPorts, Limits
from workers.engines.lease import Lease

NODE = "n1"
SITE = "mx.peer.test"
DOMAIN = "peer.test"
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
UNLIMITED = Strategy(1, "unlimited", 0, 0, 0, 0.0)
OK = SmtpReply.of(250, ("2.0.0 queued",))


def policy(
    *, strategy: Strategy = UNLIMITED, patterns: tuple[BouncePattern, ...] = (), sources: int = 1
) -> PolicySnapshot:
    """A small policy: one account, one sender, a pool of `sources` equal sources."""
    retry = RetryRule(1, "quick", RetryMode.OTHER_IP_ANY_NODE, 3, 60.0, RetryType.FIXED)
    return PolicySnapshot(
        revision=7,
        accounts={1: Account(1, "acme", True, 1, 3600.0, 1 << 20, 100)},
        senders={1: Sender(1, "bulk", (1,), 1, 1, 1, return_path_domain="bounce.sender.test")},
        sending_domains={"sender.test": SendingDomain(1, "sender.test", (1,), "")},
        pools={1: Pool(1, "pool", tuple(PoolMember(n, 1) for n in range(1, sources + 1)))},
        sources={
            n: Source(n, NODE, f"127.0.100.{n}", f"out{n}.sender.test")
            for n in range(1, sources + 1)
        },
        nodes={NODE: Node(1, NODE)},
        isps={1: Isp(1, "Peer", (DOMAIN,))},
        strategies={1: strategy},
        retry_rules={1: retry},
        default_rules={1: DefaultRule(1, "all", 0, 0, 1)},
        bounce_patterns=patterns,
    )


def row(
    number: int,
    *,
    recipient: str = "",
    account: int = 1,
    attempt: int = 0,
    expires_in_s: float = 3600.0,
    mail_class: MailClass = MailClass.MAIN,
) -> QueuedRow:
    """A row due now in the lane of its account."""
    return QueuedRow(
        id=number,
        lane_id=account * 10 + int(mail_class),
        state=RowState.WAITING,
        message_id=uuid7(1_800_000_000_000 + number, number.to_bytes(10, "big")),
        recipient_no=0,
        recipient=ForwardPath.parse(recipient or f"r{number}@{DOMAIN}"),
        reverse_path=ReversePath.parse("news@sender.test"),
        content=ContentRef(1, number, 100, 0),
        header_from="sender.test",
        message_id_header=f"<{number}@sender.test>",
        account_id=account,
        sender_id=1,
        campaign_id=0,
        campaign="",
        mail_class=mail_class,
        tls_need=TlsNeed.POLICY,
        site=SITE,
        isp_id=1,
        accepted_at=NOW - timedelta(seconds=10),
        due_at=NOW,
        expires_at=NOW + timedelta(seconds=expires_in_s),
        attempt=attempt,
        claim_no=0,
        pinned_source_id=None,
        custom="",
    )


class FixedPolicy:
    """PolicySource of one snapshot, which a test may replace."""

    def __init__(self, snapshot: PolicySnapshot) -> None:
        self.snapshot = snapshot

    def current(self) -> PolicySnapshot:
        return self.snapshot


class RunningClock:
    """Clock whose day is fixed and whose seconds run."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def now(self) -> datetime:
        return NOW + timedelta(seconds=time.monotonic() - self._began)

    def monotonic(self) -> float:
        return time.monotonic()


@dataclass
class MemoryLedger:
    """The queue in memory, with claims, fences and counts."""

    rows: dict[int, QueuedRow] = field(default_factory=dict)
    due_in_s: dict[int, float] = field(default_factory=dict)
    reasons: dict[int, WaitReason] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    stop_listed: set[tuple[int, str]] = field(default_factory=set)
    strays: list[tuple[int, str]] = field(default_factory=list)
    settles: int = 0
    is_away: bool = False
    lease_is_good: bool = True
    next_incarnation: int = 1
    claims: list[Sequence[LaneClaim]] = field(default_factory=list)

    def add(self, *rows: QueuedRow) -> None:
        for each in rows:
            self.rows[each.id] = each

    def _check(self) -> None:
        if self.is_away:
            raise StoreUnavailable("postgresql", "away")

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    async def register(self, *, node: str, process: str, journal: str) -> int:
        self._check()
        self.next_incarnation += 1
        return self.next_incarnation - 1

    async def heartbeat(self, incarnation: int) -> bool:
        self._check()
        return self.lease_is_good

    async def retire(self, incarnation: int) -> None:
        self._check()

    async def try_lead(self, role: str) -> bool:
        self._check()
        return True

    async def due_lanes(self, *, limit: int) -> Sequence[DueLane]:
        self._check()
        return self._lanes(lambda _: True)

    async def lanes_of_sites(
        self, sites: Sequence[str], *, mail_class: MailClass, sender_ids: Sequence[int]
    ) -> Sequence[DueLane]:
        self._check()
        return self._lanes(lambda r: r.site in sites and r.mail_class is mail_class)

    def _lanes(self, wanted: Callable[[QueuedRow], bool]) -> list[DueLane]:
        lanes: dict[int, list[QueuedRow]] = {}
        for each in self.rows.values():
            is_due = self.due_in_s.get(each.id, 0.0) <= 0
            if each.state is RowState.WAITING and is_due and wanted(each):
                lanes.setdefault(each.lane_id, []).append(each)
        return [
            DueLane(
                lane_id,
                rows[0].sender_id,
                rows[0].account_id,
                0,
                rows[0].mail_class,
                rows[0].site,
                TlsNeed.POLICY,
                rows[0].isp_id,
                len(rows),
                any(r.attempt for r in rows),
            )
            for lane_id, rows in sorted(lanes.items())
        ]

    async def claim(
        self, requests: Sequence[LaneClaim], *, incarnation: int
    ) -> Sequence[QueuedRow]:
        self._check()
        self.claims.append(requests)
        taken = []
        for request in requests:
            due = [
                r
                for r in self.rows.values()
                if r.lane_id == request.lane_id
                and r.state is RowState.WAITING
                and self.due_in_s.get(r.id, 0.0) <= 0
            ]
            for each in due[: request.budget]:
                leased = replace(each, state=RowState.LEASED, claim_no=each.claim_no + 1)
                self.rows[each.id] = leased
                taken.append(leased)
        return taken

    async def settle(self, settlement: Settlement) -> int:
        self._check()
        self.settles += 1
        changed = 0
        for finish in settlement.finish:
            changed += self.rows.pop(finish.row_id, None) is not None
        for defer in settlement.defer:
            each = self.rows.get(defer.row_id)
            if each is None or each.claim_no != defer.claim_no or each.state != RowState.LEASED:
                continue
            self.rows[each.id] = replace(
                each, state=defer.state, attempt=each.attempt + int(defer.counts_attempt)
            )
            self.due_in_s[each.id] = defer.delay_s
            self.reasons[each.id] = defer.reason
            changed += 1
        if settlement.events:
            self.events.extend(decode_lines(settlement.events))
        return changed

    async def rows_by_id(self, row_ids: Sequence[int]) -> Sequence[QueuedRow]:
        return [self.rows[i] for i in row_ids if i in self.rows]

    async def stopped(self, recipients: Collection[tuple[int, str]]) -> Collection[tuple[int, str]]:
        return self.stop_listed & set(recipients)

    async def return_strays(self, rows: Sequence[QueuedRow], route: DomainRoute) -> int:
        for each in rows:
            self.strays.append((each.id, route.site))
            self.rows.pop(each.id)
        return len(rows)

    async def unrouted_domains(self, *, limit: int) -> Sequence[str]:
        return sorted({r.recipient.domain for r in self.rows.values() if not r.site})

    async def apply_routes(self, routes: Sequence[DomainRoute]) -> int:
        moved = 0
        for route in routes:
            for each in [r for r in self.rows.values() if r.recipient.domain == route.domain]:
                self.rows[each.id] = replace(each, site=route.site, isp_id=route.isp_id)
                moved += 1
        return moved

    async def postpone_domains(
        self, domains: Sequence[str], *, delay_s: float, reply: SmtpReply
    ) -> int:
        late = [r for r in self.rows.values() if r.recipient.domain in domains]
        for each in late:
            self.due_in_s[each.id] = delay_s
            self.reasons[each.id] = WaitReason.DNS
        return len(late)

    async def unrouted_rows(self, domain: str, *, limit: int) -> Sequence[QueuedRow]:
        found = [r for r in self.rows.values() if r.recipient.domain == domain and not r.site]
        return found[:limit]


@dataclass
class MemoryJournal:
    """Journal that remembers what it was told, in order."""

    told: list[tuple[str, int]] = field(default_factory=list)
    live: set[tuple[int, int]] = field(default_factory=set)
    when_told: Callable[[], None] = lambda: None

    def dot(self, row_id: int, claim_no: int) -> None:
        self.told.append(("dot", row_id))
        self.live.add((row_id, claim_no))

    def outcome(self, outcome: Outcome) -> None:
        self.when_told()
        self.told.append(("outcome", outcome.row_id))
        self.live.add((outcome.row_id, outcome.claim_no))

    def forget(self, claims: Sequence[tuple[int, int]]) -> None:
        self.live -= set(claims)


@dataclass
class MemorySpool:
    """Spool whose content is made up, but for what a test says is missing."""

    missing: set[int] = field(default_factory=set)

    async def read_many(self, refs: Sequence[ContentRef]) -> Sequence[bytes | None]:
        return [None if r.offset in self.missing else b"Subject: x\r\n\r\nhello\r\n" for r in refs]


@dataclass
class TableResolver:
    """Resolver that answers from tables; what is in none has one MX."""

    mxs: dict[str, MxAnswer] = field(default_factory=dict)

    async def mx(self, domain: str) -> MxAnswer:
        return self.mxs.get(domain, MxAnswer(DnsStatus.OK, (MxHost(10, f"mx.{domain}"),)))

    async def addresses(self, host: str) -> AddressAnswer:
        return AddressAnswer(DnsStatus.OK, ("127.0.0.1",))


class OneTransaction:
    """A transaction that ends as its receiver's script says."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.content_sent: asyncio.Future[None] = loop.create_future()
        self.replies: asyncio.Future[tuple[RecipientReply, ...]] = loop.create_future()
        self.dialogue_ms = 1


Answer = SmtpReply | RecipientReply | TransportError


class ScriptedConnection:
    """A session whose answers come from the receiver's script."""

    def __init__(self, receiver: ScriptedReceiver, endpoint: Endpoint) -> None:
        self._receiver = receiver
        self.session = SessionInfo(endpoint.host, endpoint.address, endpoint.source_address)
        self.is_usable = True
        self.sent = 0

    def begin(self, message: WireMessage, *, before_dot: Callable[[], bool]) -> OneTransaction:
        transaction = OneTransaction()
        self.sent += 1
        answer = self._receiver.answer(message)
        is_at_dot = not isinstance(answer, RecipientReply) or answer.stage == "dot"
        is_at_dot = is_at_dot and not (isinstance(answer, TransportError) and not answer.after_dot)
        if is_at_dot and not before_dot():
            self.is_usable = False
            reply = SmtpReply.local(451, "4.3.0", "withheld")
            answer = Withheld(reply, scope=Scope.MESSAGE, stage="dot")
        transaction.content_sent.set_result(None)
        loop = asyncio.get_running_loop()
        loop.call_soon(self._finish, transaction, answer, message)
        return transaction

    def _finish(self, transaction: OneTransaction, answer: Answer, message: WireMessage) -> None:
        if isinstance(answer, TransportError):
            self.is_usable = False
            transaction.replies.set_exception(answer)
            return
        if isinstance(answer, SmtpReply):
            answer = RecipientReply(answer, "dot", Scope.MESSAGE)
        if answer.reply.is_positive:
            self._receiver.delivered.append(message)
        if answer.reply.code == 421:
            self.is_usable = False
        transaction.replies.set_result((answer,))

    async def close(self) -> None:
        self._receiver.open -= 1


@dataclass
class ScriptedReceiver:
    """Connector to a receiver: `script` gives the next answers, then everything is accepted."""

    script: list[Answer] = field(default_factory=list)
    refuse: list[TransportError] = field(default_factory=list)
    delivered: list[WireMessage] = field(default_factory=list)
    endpoints: list[Endpoint] = field(default_factory=list)
    open: int = 0
    most_open: int = 0

    def answer(self, message: WireMessage) -> Answer:
        return self.script.pop(0) if self.script else OK

    async def connect(self, endpoint: Endpoint) -> ScriptedConnection:
        self.endpoints.append(endpoint)
        if self.refuse:
            raise self.refuse.pop(0)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        return ScriptedConnection(self, endpoint)


@dataclass
class OpenShaper:
    """Shaper that grants what it is asked, within the limit, and remembers."""

    held: int = 0
    bells: dict[tuple[Path, MailClass], int] = field(default_factory=dict)
    cooled: list[tuple[Path, float, str]] = field(default_factory=list)
    grants: list[Grant] = field(default_factory=list)
    granted: int = 0
    returned: int = 0
    is_away: bool = False

    async def open_slots(
        self, path: Path, *, wanted: int, limit: int, mail_class: MailClass = MailClass.MAIN
    ) -> Sequence[str]:
        if self.is_away:
            raise StoreUnavailable("redis", "away")
        count = min(wanted, limit - self.held) if limit else wanted
        self.held += count
        return [f"slot{n}" for n in range(count)]

    async def renew_slots(self, slots: Sequence[tuple[Path, str]]) -> Sequence[Path]:
        return ()

    async def close_slots(self, slots: Sequence[tuple[Path, str]]) -> None:
        self.held -= len(slots)

    async def grant(
        self, path: Path, *, want: int, rate: Rate, mail_class: MailClass = MailClass.MAIN
    ) -> Grant:
        grant = self.grants.pop(0) if self.grants else Grant(0, 60.0)
        self.granted += grant.count
        return grant

    async def return_grant(self, path: Path, *, unused: int, rate: Rate, ticket: str = "") -> None:
        self.returned += unused

    async def take_bells(
        self, paths: Sequence[tuple[Path, int]], *, mail_class: MailClass = MailClass.MAIN
    ) -> Sequence[Path]:
        taken = []
        for path, wanted in paths:
            key = path, mail_class
            if self.bells.get(key, 0) < wanted:
                self.bells[key] = self.bells.get(key, 0) + 1
                taken.append(path)
        return taken

    async def keep_bells(
        self, paths: Sequence[Path], *, mail_class: MailClass = MailClass.MAIN
    ) -> None:
        for path in paths:
            self.bells[path, mail_class] = max(1, self.bells.get((path, mail_class), 0))

    async def drop_bells(
        self, paths: Sequence[Path], *, mail_class: MailClass = MailClass.MAIN
    ) -> None:
        for path in paths:
            key = path, mail_class
            self.bells[key] = max(0, self.bells.get(key, 0) - 1)

    async def cool(self, path: Path, *, seconds: float, reason: str) -> None:
        self.cooled.append((path, seconds, reason))

    async def cooling(self, paths: Sequence[Path]) -> Sequence[Path]:
        return [path for path in paths if path in {cooled for cooled, _, _ in self.cooled}]


@dataclass
class RungBells:
    """Bells that remember what was rung."""

    drains: list[DrainBell] = field(default_factory=list)
    routes: int = 0
    applies: list[str] = field(default_factory=list)
    is_away: bool = False

    async def drain(self, bell: DrainBell) -> None:
        if self.is_away:
            raise StoreUnavailable("broker", "away")
        self.drains.append(bell)

    async def route(self, bell: RouteBell) -> None:
        self.routes += 1

    async def apply(self, bell: ApplyBell) -> None:
        self.applies.append(bell.consumer)

    async def upkeep(self, task: str, bell: UpkeepBell) -> None:
        return


class EmptyVault:
    """Vault without secrets."""

    async def open(self, secret_ref: str) -> bytes:
        raise LookupError(secret_ref)


@dataclass
class World:
    """All fakes of one delivery process, and the ports made of them."""

    ledger: MemoryLedger
    journal: MemoryJournal
    spool: MemorySpool
    resolver: TableResolver
    receiver: ScriptedReceiver
    shaper: OpenShaper
    bells: RungBells
    policy: FixedPolicy
    ports: DeliverPorts


def world(snapshot: PolicySnapshot | None = None, *, limits: Limits | None = None) -> World:
    """Build a delivery process of fakes. Waits are short, so that tests end soon."""
    ledger, journal, clock = MemoryLedger(), MemoryJournal(), RunningClock()
    spool, resolver, receiver = MemorySpool(), TableResolver(), ScriptedReceiver()
    shaper, bells, source = OpenShaper(), RungBells(), FixedPolicy(snapshot or policy())
    ports = DeliverPorts(
        policy=source,
        clock=clock,
        ledger=ledger,
        spool=spool,
        journal=journal,
        resolver=resolver,
        connector=receiver,
        shaper=shaper,
        bells=bells,
        vault=EmptyVault(),
        lease=Lease(ledger, clock, node=NODE, process="p", journal="p"),
        signers=ThreadPoolExecutor(1),
        token_ring={1: b"k" * 32},
        draw=lambda: 0.5,
        node=NODE,
        smtp_port=2525,
        limits=limits or Limits(linger_s=0.05, idle_s=0.05, dry_gap_s=0.01, round_gap_s=0.002),
    )
    return World(ledger, journal, spool, resolver, receiver, shaper, bells, source, ports)
