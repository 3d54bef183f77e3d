"""Fakes of the ports the delivery engines see: a queue in memory, receivers that follow a script.

They keep the ports' promises (claims are leased and fenced, finishing is not), so that a test of an
engine shows behaviour and not calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from mailcore.bells import ApplyBell, DrainBell, Path, RouteBell, UpkeepBell
from mailcore.outcome import (
    MailClass,
    Scope,
    SessionInfo,
)
from mailcore.policy.model import PolicySnapshot
from mailcore.policy.words import TlsMode
from mailcore.ports import (
    Endpoint,
    Grant,
    Rate,
    RecipientReply,
    StoreUnavailable,
    StsSource,
    TlsFailed,
    TransportError,
    WireMessage,
    Withheld,
)
from mailcore.reply import SmtpReply
from mailcore.security import CLEAR, Proven
from tests.support.builders import NODE, OK, policy
from tests.support.fake_sources import (
    FixedHolds,
    FixedPolicy,
    MemoryHosts,
    RunningClock,
    TableResolver,
)
from tests.support.fake_stores import MemoryJournal, MemoryLedger, MemorySpool
from workers.engines.context import DeliverPorts, Limits
from workers.engines.lease import Lease


class OneTransaction:
    """A transaction that ends as its receiver's script says."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.content_sent: asyncio.Future[None] = loop.create_future()
        self.replies: asyncio.Future[tuple[RecipientReply, ...]] = loop.create_future()
        self.dialogue_ms = 1


NO_REQUIRETLS = SmtpReply.local(550, "5.7.30", "the server offers no REQUIRETLS")
Answer = SmtpReply | RecipientReply | TransportError


class ScriptedConnection:
    """A session whose answers come from the receiver's script."""

    def __init__(self, receiver: ScriptedReceiver, endpoint: Endpoint) -> None:
        self._receiver = receiver
        self.session = SessionInfo(
            endpoint.host, endpoint.address, endpoint.source_address, endpoint.ehlo_name
        )
        self.proven = receiver.shown(endpoint)
        if self.proven.is_encrypted:
            self.session = replace(self.session, tls_version="TLSv1.3")
        self.is_usable = True
        self.takes_8bit = receiver.takes_8bit
        has_extension = endpoint.host not in receiver.without_requiretls
        self.takes_requiretls = self.proven.is_encrypted and has_extension
        self.most_recipients = 0
        self.sent = 0

    def begin(
        self, message: WireMessage, *, before_dot: Callable[[Sequence[int]], bool]
    ) -> OneTransaction:
        transaction = OneTransaction()
        self.sent += 1
        answer = self._receiver.answer(message)
        if message.requires_tls and not self.takes_requiretls:
            answer = RecipientReply(NO_REQUIRETLS, "mail", Scope.MESSAGE)
        verdicts: list[RecipientReply | None] = [None] * len(message.forward_paths)
        if isinstance(answer, RecipientReply) and answer.stage != "dot":
            verdicts = [answer for _ in message.forward_paths]
        elif not isinstance(answer, TransportError):
            for index, path in enumerate(message.forward_paths):
                verdicts[index] = self._receiver.at_rcpt(path, index)
        undecided = [index for index, verdict in enumerate(verdicts) if verdict is None]
        is_at_dot = bool(undecided)
        is_at_dot = is_at_dot and not (isinstance(answer, TransportError) and not answer.after_dot)
        if is_at_dot and not before_dot(undecided):
            self.is_usable = False
            reply = SmtpReply.local(451, "4.3.0", "withheld")
            answer = Withheld(reply, scope=Scope.MESSAGE, stage="dot", decided=tuple(verdicts))
        transaction.content_sent.set_result(None)
        loop = asyncio.get_running_loop()
        loop.call_soon(self._finish, transaction, answer, message, verdicts)
        return transaction

    def _finish(
        self,
        transaction: OneTransaction,
        answer: Answer,
        message: WireMessage,
        verdicts: list[RecipientReply | None],
    ) -> None:
        if isinstance(answer, TransportError):
            self.is_usable = False
            transaction.replies.set_exception(answer)
            return
        if isinstance(answer, SmtpReply):
            answer = RecipientReply(answer, "dot", Scope.MESSAGE)
        taken = [p for p, v in zip(message.forward_paths, verdicts, strict=True) if v is None]
        if answer.reply.is_positive and taken:
            self._receiver.delivered.append(replace(message, forward_paths=tuple(taken)))
        if answer.reply.code == 421:
            self.is_usable = False
        transaction.replies.set_result(tuple(verdict or answer for verdict in verdicts))

    async def close(self) -> None:
        self._receiver.open -= 1


@dataclass
class ScriptedReceiver:
    """Connector to a receiver: `script` gives the next answers, then everything is accepted.

    `tls` says what it proves when it is asked for TLS; without one it offers none.
    """

    script: list[Answer] = field(default_factory=list)
    refuse: list[TransportError] = field(default_factory=list)
    delivered: list[WireMessage] = field(default_factory=list)
    endpoints: list[Endpoint] = field(default_factory=list)
    open: int = 0
    most_open: int = 0
    takes_8bit: bool = True
    without_requiretls: set[str] = field(default_factory=set)
    refused: dict[str, SmtpReply] = field(default_factory=dict)
    most_taken: int = 0
    tls: Callable[[Endpoint], Proven] | None = None

    def at_rcpt(self, path: str, index: int) -> RecipientReply | None:
        """Return what a recipient is refused with, None for one that is taken."""
        reply = self.refused.get(path)
        if reply is None and self.most_taken and index >= self.most_taken:
            reply = SmtpReply.of(452, ("4.5.3 too many recipients",))
        return None if reply is None else RecipientReply(reply, "rcpt", Scope.RECIPIENT)

    def shown(self, endpoint: Endpoint) -> Proven:
        """Return what a session is like, or raise TlsFailed."""
        if endpoint.tls is TlsMode.NONE:
            return CLEAR
        if self.tls is not None:
            return self.tls(endpoint)
        if endpoint.tls is TlsMode.REQUIRED:
            reply = SmtpReply.local(451, "4.7.4", "TLS is required and not offered")
            raise TlsFailed(reply, scope=Scope.HOST, stage="starttls")
        return CLEAR

    def answer(self, message: WireMessage) -> Answer:
        return self.script.pop(0) if self.script else OK

    async def connect(self, endpoint: Endpoint) -> ScriptedConnection:
        self.endpoints.append(endpoint)
        if self.refuse:
            raise self.refuse.pop(0)
        connection = ScriptedConnection(self, endpoint)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        return connection


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
    hosts: MemoryHosts
    receiver: ScriptedReceiver
    shaper: OpenShaper
    bells: RungBells
    policy: FixedPolicy
    holds: FixedHolds
    ports: DeliverPorts


def world(
    snapshot: PolicySnapshot | None = None,
    *,
    limits: Limits | None = None,
    sts: StsSource | None = None,
) -> World:
    """Build a delivery process of fakes. Waits are short, so that tests end soon."""
    ledger, journal, clock = MemoryLedger(), MemoryJournal(), RunningClock()
    spool, resolver, receiver = MemorySpool(), TableResolver(), ScriptedReceiver()
    shaper, bells, source = OpenShaper(), RungBells(), FixedPolicy(snapshot or policy())
    holds, hosts = FixedHolds(), MemoryHosts()
    ports = DeliverPorts(
        policy=source,
        holds=holds,
        clock=clock,
        ledger=ledger,
        spool=spool,
        journal=journal,
        resolver=resolver,
        hosts=hosts,
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
        sts=sts,
    )
    return World(
        ledger, journal, spool, resolver, hosts, receiver, shaper, bells, source, holds, ports
    )
