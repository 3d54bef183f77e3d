"""Fakes of the ports the delivery engines see: a queue in memory, receivers that follow a script.

They keep the ports' promises (claims are leased and fenced, finishing is not), so that a test of an
engine shows behaviour and not calls.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from mailcore.bells import ApplyBell, DrainBell, Path, RouteBell, UpkeepBell
from mailcore.holds import NO_HOLDS, Hold, HoldScope, HoldSet
from mailcore.outcome import (
    MailClass,
    Scope,
    SessionInfo,
)
from mailcore.policy.model import (
    PolicySnapshot,
)
from mailcore.ports import (
    AddressAnswer,
    DnsStatus,
    Endpoint,
    Grant,
    MxAnswer,
    MxHost,
    Rate,
    RecipientReply,
    StoreUnavailable,
    TransportError,
    WireMessage,
    Withheld,
)
from mailcore.reply import SmtpReply
from tests.support.builders import NODE, NOW, OK, policy
from tests.support.fake_stores import MemoryJournal, MemoryLedger, MemorySpool
from workers.engines.context import DeliverPorts, Limits
from workers.engines.lease import Lease


class FixedPolicy:
    """PolicySource of one snapshot, which a test may replace."""

    def __init__(self, snapshot: PolicySnapshot) -> None:
        self.snapshot = snapshot

    def current(self) -> PolicySnapshot:
        return self.snapshot


class FixedHolds:
    """HoldSource whose holds a test places and releases."""

    def __init__(self) -> None:
        self.in_force = NO_HOLDS

    def current(self) -> HoldSet:
        return self.in_force

    def place(self, scope: HoldScope, target: int | str = 0) -> None:
        """Hold one thing and nothing else, by number or by name."""
        number, name = (target, "") if isinstance(target, int) else (0, target)
        self.in_force = HoldSet.of([Hold(1, scope, number, name, "why", "ann", NOW)])

    def release(self) -> None:
        """Hold nothing."""
        self.in_force = NO_HOLDS


class RunningClock:
    """Clock whose day is fixed and whose seconds run."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def now(self) -> datetime:
        return NOW + timedelta(seconds=time.monotonic() - self._began)

    def monotonic(self) -> float:
        return time.monotonic()


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
        self.takes_8bit = receiver.takes_8bit
        self.most_recipients = 0
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
    takes_8bit: bool = True

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
    asked: list[int] = field(default_factory=list)
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
        self.asked.append(want)
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
    holds: FixedHolds
    ports: DeliverPorts


def world(snapshot: PolicySnapshot | None = None, *, limits: Limits | None = None) -> World:
    """Build a delivery process of fakes. Waits are short, so that tests end soon."""
    ledger, journal, clock = MemoryLedger(), MemoryJournal(), RunningClock()
    spool, resolver, receiver = MemorySpool(), TableResolver(), ScriptedReceiver()
    shaper, bells, source = OpenShaper(), RungBells(), FixedPolicy(snapshot or policy())
    holds = FixedHolds()
    ports = DeliverPorts(
        policy=source,
        holds=holds,
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
    return World(ledger, journal, spool, resolver, receiver, shaper, bells, source, holds, ports)
