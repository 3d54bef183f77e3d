"""Fakes of what the engines ask: policy, holds, the time, DNS, what is remembered of hosts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from mailcore.holds import NO_HOLDS, Hold, HoldScope, HoldSet
from mailcore.policy.model import PolicySnapshot
from mailcore.ports import (
    AddressAnswer,
    DnsStatus,
    KnownHosts,
    MxAnswer,
    MxHost,
    TlsaAnswer,
    TxtAnswer,
)
from tests.support.builders import NOW


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
    hosts: dict[str, AddressAnswer] = field(default_factory=dict)
    tlsas: dict[str, TlsaAnswer] = field(default_factory=dict)

    async def mx(self, domain: str) -> MxAnswer:
        return self.mxs.get(domain, MxAnswer(DnsStatus.OK, (MxHost(10, f"mx.{domain}"),)))

    async def addresses(self, host: str) -> AddressAnswer:
        return self.hosts.get(host, AddressAnswer(DnsStatus.OK, ("127.0.0.1",), canonical=host))

    async def tlsa(self, host: str, port: int) -> TlsaAnswer:
        return self.tlsas.get(host, TlsaAnswer(DnsStatus.NO_DATA))

    async def txt(self, name: str) -> TxtAnswer:
        return TxtAnswer(DnsStatus.NO_DATA)


@dataclass
class MemoryHosts:
    """HostMemory that forgets nothing; `dead` and `failures` by source and address."""

    dead: set[tuple[str, str]] = field(default_factory=set)
    failures: dict[tuple[str, str], int] = field(default_factory=dict)
    broken_tls: set[str] = field(default_factory=set)
    looks: int = 0

    async def known(
        self, source: str, *, hosts: Sequence[str], addresses: Sequence[str]
    ) -> KnownHosts:
        self.looks += 1
        return KnownHosts(
            failures={a: self.failures[source, a] for a in addresses if (source, a) in self.dead},
            dead=frozenset(a for a in addresses if (source, a) in self.dead),
            broken_tls=frozenset(self.broken_tls.intersection(hosts)),
        )

    async def note_dead(self, source: str, address: str, *, failures: int) -> None:
        self.dead.add((source, address))
        self.failures[source, address] = failures

    async def note_alive(self, source: str, address: str) -> None:
        self.dead.discard((source, address))

    async def note_broken_tls(self, host: str) -> None:
        self.broken_tls.add(host)
