"""What a delivery process works with, put together once by `workers.runtime`.

Gives    DeliverPorts, Limits
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass

from mailcore.ports import (
    Bells,
    Clock,
    Connector,
    HoldSource,
    HostMemory,
    Journal,
    Ledger,
    PolicySource,
    Resolver,
    Shaper,
    SpoolReader,
    StsSource,
    Vault,
)
from workers.engines.lease import Lease


@dataclass(frozen=True, slots=True)
class Limits:
    """What one process may hold at a time.

    `site_share` is the part of its connections one site may take, so that a stalled site never
    eats the process. `linger_s` is how long a path without rows stays open for more.
    """

    connections: int = 500
    site_share: float = 0.1
    rows_per_path: int = 400
    rows: int = 4000
    bytes_held: int = 64 << 20
    round_gap_s: float = 0.010
    dry_gap_s: float = 0.050
    linger_s: float = 1.0
    idle_s: float = 2.0
    grant_horizon_s: float = 5.0
    cool_first_s: float = 1.0
    cool_most_s: float = 300.0

    @property
    def connections_per_site(self) -> int:
        """The most connections one path may have in this process."""
        return max(1, int(self.connections * self.site_share))


@dataclass(frozen=True, slots=True)
class DeliverPorts:
    """Ports and facts of one delivery process. `draw` returns a float in [0, 1). Without `sts`
    nobody's MTA-STS policy is asked for. `own_names` and `own_listeners` are those of the node's
    SMTP server."""

    policy: PolicySource
    holds: HoldSource
    clock: Clock
    ledger: Ledger
    spool: SpoolReader
    journal: Journal
    resolver: Resolver
    hosts: HostMemory
    connector: Connector
    shaper: Shaper
    bells: Bells
    vault: Vault
    lease: Lease
    signers: Executor
    token_ring: Mapping[int, bytes]
    draw: Callable[[], float]
    node: str
    smtp_port: int
    limits: Limits = Limits()
    sts: StsSource | None = None
    own_names: frozenset[str] = frozenset()
    own_listeners: frozenset[tuple[str, int]] = frozenset()
