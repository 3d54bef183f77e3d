"""The composition root: settings and adapters become the ports of this process, once.

Gives    start, stop (called by Celery's signals); delivery, routing, consumers, upkeep (what a
         task may ask of its process); set_up_logging
Takes    the kind of the process: priority, delivery, event, upkeep, control
Raises   at start: SettingsError, StoreUnavailable, NoPolicy; a process that cannot work must not
         pretend to. Later: RuntimeError when a task reaches a process of another kind

Deliveries run on one engine thread with a uvloop of its own, under Celery's threads.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from celery import Celery

from mailcore.policy.model import PolicySnapshot
from mailio import settings as process_settings
from mailio.broker import CeleryBells
from mailio.clock import LedgerClock
from mailio.dns import DnsResolver
from mailio.holds import HoldCache
from mailio.host_memory import RedisHostMemory
from mailio.journal import FileJournal
from mailio.ledger.delivery import PgLedger
from mailio.ledger.outbox import PgOutbox
from mailio.ledger.sts import PgStsPolicies
from mailio.ledger.upkeep import LedgerUpkeep
from mailio.logs import set_up_logging as set_up_logging
from mailio.notices import RING_CHANNEL, Listener
from mailio.settings import Settings
from mailio.shaper import RedisShaper
from mailio.shelves import JournalDirectory
from mailio.smtp import SmtpConnector, Timeouts
from mailio.smtpd_settings import read_ourselves
from mailio.spool.opening import open_spool
from mailio.stats import open_statistics
from mailio.stoplist import PgStopList
from mailio.sts_cache import StsCache
from mailio.sts_fetch import StsFetcher
from mailio.vault import PgVault, token_ring
from mailio.witness import Witness
from workers import writeback
from workers.checks import open_checks, open_shelves
from workers.engine_thread import Engine
from workers.engines.apply_events import ApplyPorts, apply
from workers.engines.check import check_contents, check_ledger
from workers.engines.context import DeliverPorts, Limits
from workers.engines.drain import Dispatcher
from workers.engines.lease import Lease
from workers.engines.ring import Ringer
from workers.engines.route import RETRY_DNS_LAB_S, RETRY_DNS_S, route_domains
from workers.engines.settle import Rules, Settler
from workers.engines.staff import quietly
from workers.engines.sweep import measure_disk, sweep_spool
from workers.engines.upkeep import UpkeepPorts, expire, prune, reap, unpark
from workers.mailboxes import open_poller
from workers.policy_cache import PolicyCache
from workers.reports import open_reporter

WAIT_S = 5.0
FOLLOW_S = 1.0
SIGNERS = 2

log = logging.getLogger(__name__)


class Process:
    """What every kind of process has: settings, and what must be closed at the end."""

    def __init__(self, kind: str, settings: Settings, celery: Celery) -> None:
        self.kind = kind
        self.settings = settings
        self.name = f"{settings.node}-{kind}-{os.getpid()}-{int(time.time())}"
        self.celery = celery
        self._closers: list[Callable[[], object]] = []

    def closing(self, close: Callable[[], object]) -> None:
        """Call this at the end, the last first."""
        self._closers.append(close)

    def stop(self) -> None:
        """Close everything."""
        for close in reversed(self._closers):
            try:
                close()
            except Exception:
                # The plane's edge: one thing that will not close must not keep the others open.
                log.exception("not closed cleanly")


class PolicyProcess(Process):
    """A process that obeys the policy in force."""

    def __init__(self, kind: str, settings: Settings, celery: Celery) -> None:
        super().__init__(kind, settings, celery)
        self.policy = PolicyCache.start(settings, process=self.name)
        self.closing(self.policy.stop)


class ControlProcess(Process):
    """Works for the control plane: jobs that people start, and alerts.

    The one kind that may use the ORM, and the only one of prefork children: each opens what it
    needs, so that nothing is shared across the fork.
    """

    def __init__(self, kind: str, settings: Settings, celery: Celery) -> None:
        super().__init__(kind, settings, celery)
        writeback.set_up()


class EventProcess(PolicyProcess):
    """Applies the outbox. Plain threads, no engine."""

    def __init__(self, kind: str, settings: Settings, celery: Celery) -> None:
        super().__init__(kind, settings, celery)
        statistics = open_statistics(settings.clickhouse_url)
        statistics.migrate()
        outbox = PgOutbox(settings.database_url)
        stop_list = PgStopList(settings.database_url)
        reporter = open_reporter(settings, self.policy, self.closing)
        self._ports = ApplyPorts(outbox, statistics, stop_list, reporter)
        for adapter in (statistics, outbox, stop_list):
            self.closing(adapter.close)

    def apply(self, consumer: str) -> int:
        """Bring one consumer of the outbox up to date; return how many events it took."""
        return apply(consumer, self._ports)


class EngineProcess(PolicyProcess):
    """A process with an engine thread, a lease and a journal: delivery, routing, upkeep."""

    def __init__(self, kind: str, settings: Settings, celery: Celery) -> None:
        super().__init__(kind, settings, celery)
        self.holds = HoldCache(settings.database_url, settings.redis_url)
        self.closing(self.holds.stop)
        self.engine = Engine()
        self.closing(self.engine.stop)
        self._journal = FileJournal(settings.journal_dir, self.name)
        self._journal.start()
        self.closing(self._journal.stop)
        self.spool = open_spool(settings)
        self.closing(self.spool.close)
        self.clock = LedgerClock()
        confined = settings.is_lab
        self._resolver = DnsResolver(settings.resolver, confine_to_loopback=confined)
        self._connector = SmtpConnector(
            _timeouts(settings), confine_to_loopback=confined, ca_file=settings.tls_ca_file
        )
        self._sts = self._sts_cache()
        self.ports = self.engine.call(self._ports())
        self.engine.call(self.ports.lease.open())
        self.closing(lambda: self.engine.call(self.ports.lease.close()))
        self._keep(self.ports.lease.keep())
        self._keep(self._follow_node_settings())

    def _sts_cache(self) -> StsCache:
        """Open the memory of MTA-STS policies; what the fleet knows is known from the start."""
        settings = self.settings
        store = PgStsPolicies(settings.database_url)
        self.closing(store.close)
        fetcher = StsFetcher(
            self._resolver, ca_file=settings.tls_ca_file, port=settings.mta_sts_port
        )
        cache = StsCache(self._resolver, fetcher, store, self.clock)
        self.closing(cache.close)
        cache.load()
        return cache

    async def _follow_node_settings(self) -> None:
        """Hand the node's settings to the adapters whenever a new policy is in force."""
        seen: PolicySnapshot | None = None
        while True:
            policy = self.policy.current()
            node = policy.nodes.get(self.settings.node)
            if policy is not seen and node is not None:
                self._resolver.adjust(timeout_s=node.dns_timeout_s, ceiling_s=node.dns_cache_max_s)
                self._connector.adjust(connect_s=node.connect_timeout_s)
            seen = policy
            await asyncio.sleep(FOLLOW_S)

    def _keep(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run a loop until the end."""
        future = self.engine.keep(work)
        self.closing(future.cancel)

    def submit(self, work: Coroutine[Any, Any, Any], *, wait_s: float) -> None:
        """Start work on the engine; see Engine.submit."""
        self.engine.submit(work, wait_s=wait_s)

    async def _ports(self) -> DeliverPorts:
        """Build on the loop: some adapters bind to it."""
        settings = self.settings
        witness = Witness(settings.witness_file, node=settings.node)
        ledger = PgLedger(settings.database_url, clock=self.clock, witness=witness)
        shaper = RedisShaper(settings.redis_url)
        hosts = RedisHostMemory(settings.redis_url, node=settings.node)
        own_names, own_listeners = read_ourselves(os.environ)
        vault = PgVault(settings.database_url, settings.secret_keys)
        bells = CeleryBells(self.celery)
        signers = ThreadPoolExecutor(SIGNERS, thread_name_prefix="sign")
        self.closing(ledger.close)
        self.closing(vault.close)
        self.closing(bells.close)
        self.closing(signers.shutdown)
        self.closing(lambda: self.engine.call(shaper.close()))
        self.closing(lambda: self.engine.call(hosts.close()))
        return DeliverPorts(
            policy=self.policy,
            holds=self.holds,
            clock=self.clock,
            ledger=ledger,
            spool=self.spool,
            journal=self._journal,
            resolver=self._resolver,
            hosts=hosts,
            connector=self._connector,
            shaper=shaper,
            bells=bells,
            vault=vault,
            lease=Lease(
                ledger,
                self.clock,
                node=settings.node,
                process=self.name,
                journal=self.name,
            ),
            signers=signers,
            token_ring=token_ring(settings.secret_keys),
            draw=random.random,
            node=settings.node,
            smtp_port=settings.smtp_port,
            limits=Limits(connections=settings.connections_per_process),
            sts=self._sts,
            own_names=own_names,
            own_listeners=own_listeners,
        )


class DeliveryProcess(EngineProcess):
    """Drains, settles, rings and routes."""

    def __init__(self, kind: str, settings: Settings, celery: Celery) -> None:
        super().__init__(kind, settings, celery)
        settler = Settler(self.ports)
        self.dispatcher = Dispatcher(self.ports, settler)
        self._ringer = Ringer(self.ports)
        self._rules = settler.rules
        self._routing = asyncio.Lock()
        self._keep(settler.run())
        self._keep(self.dispatcher.run())
        self._keep(self._ringer.run())
        self.closing(lambda: self.engine.finish(self.dispatcher.stop, within_s=settings.stop_s))
        wake = Listener(settings.redis_url, RING_CHANNEL, self._wake)
        self.closing(wake.stop)

    def _wake(self, _notice: str) -> None:
        self.engine.loop.call_soon_threadsafe(self._ringer.wake)

    async def route(self) -> int:
        """One turn of routing; nothing while one is under way, for it asks about the same."""
        if self._routing.locked():
            return 0
        retry_s = RETRY_DNS_LAB_S if self.settings.is_lab else RETRY_DNS_S
        async with self._routing:
            return await route_domains(self.ports, self._rules, retry_s=retry_s)


class UpkeepProcess(EngineProcess):
    """Does the chores of its node."""

    def __init__(self, kind: str, settings: Settings, celery: Celery) -> None:
        super().__init__(kind, settings, celery)
        chores = LedgerUpkeep(settings.database_url)
        self.closing(chores.close)
        self._upkeep = UpkeepPorts(
            deliver=self.ports,
            chores=chores,
            journals=JournalDirectory(settings.journal_dir),
            rules=Rules(self.policy),
        )
        self._spool = open_shelves(settings, self.policy, self.closing)
        self._check = open_checks(settings, self._upkeep, self._spool, self.closing)
        self._poller = open_poller(settings, self.ports, self.closing)
        # Beat rings for it too; a release should not wait for beat.
        self.holds.changed = lambda: self.engine.submit(quietly(self.unpark()), wait_s=0.0)

    async def poll(self) -> int:
        """Read the mailboxes that are due."""
        return await self._poller.poll()

    async def expire(self) -> int:
        """End what has outlived its lifetime."""
        return await expire(self._upkeep)

    async def unpark(self) -> int:
        """Let go what is held no more."""
        return await unpark(self._upkeep)

    async def reap(self) -> int:
        """Take back what the dead held."""
        return await reap(self._upkeep)

    async def sweep(self) -> int:
        """Delete what nobody needs, first from the disk."""
        try:
            return await sweep_spool(self._spool)
        finally:
            await prune(self._upkeep)

    async def measure(self) -> None:
        """Look at the spool's disk."""
        await measure_disk(self._spool)

    async def check(self) -> None:
        """Look whether the queue is as it must be."""
        await check_ledger(self._check)

    async def check_content(self) -> None:
        """Read content back."""
        await check_contents(self._check)


KINDS: dict[str, type[Process]] = {
    "priority": DeliveryProcess,
    "delivery": DeliveryProcess,
    "event": EventProcess,
    "upkeep": UpkeepProcess,
    "control": ControlProcess,
}
_current: Process | None = None


def start(kind: str, celery: Celery) -> None:
    """Make this process what `kind` says."""
    global _current
    found = KINDS.get(kind)
    if found is None:
        raise process_settings.SettingsError(f"WORKER_KIND: {kind!r} is none of {sorted(KINDS)}")
    _current = found(kind, process_settings.load(), celery)
    log.info("ready", extra={"kind": kind, "life": _current.name})


def stop() -> None:
    """Finish what is on the wire, give back the rest, close."""
    global _current
    process, _current = _current, None
    if process is not None:
        process.stop()


def delivery() -> DeliveryProcess:
    """Return this process as one that delivers."""
    if isinstance(_current, DeliveryProcess):
        return _current
    raise RuntimeError("this process does not deliver")


def consumers() -> EventProcess:
    """Return this process as one that applies events."""
    if isinstance(_current, EventProcess):
        return _current
    raise RuntimeError("this process applies no events")


def upkeep() -> UpkeepProcess:
    """Return this process as one that does upkeep."""
    if isinstance(_current, UpkeepProcess):
        return _current
    raise RuntimeError("this process does no upkeep")


# The servers of the lab answer at once or never: nobody there is worth ten minutes of patience.
LAB_TIMEOUTS = Timeouts(
    connect_s=5.0,
    tls_s=5.0,
    greeting_s=10.0,
    mail_s=10.0,
    rcpt_s=10.0,
    data_s=10.0,
    block_s=20.0,
    dot_s=30.0,
    quit_s=1.0,
)


def _timeouts(settings: Settings) -> Timeouts:
    return LAB_TIMEOUTS if settings.is_lab else Timeouts()  # of RFC 5321
