"""Put together what reads mailboxes: the poller of a process and its adapters.

Gives    open_poller
Takes    settings, the ports of the process, and what to call at its end
Raises   SettingsError for an address of the statistics that is none
"""

from __future__ import annotations

from collections.abc import Callable

from mailio.ledger.inbound import PgInbound
from mailio.mailbox import Pop3Reader
from mailio.settings import Settings
from mailio.stats.traces import open_traces
from workers.engines.context import DeliverPorts
from workers.engines.poll_mailbox import Poller, PollPorts


def open_poller(
    settings: Settings, ports: DeliverPorts, closing: Callable[[Callable[[], object]], None]
) -> Poller:
    """Return a poller of this process. It is stopped before what it works with is closed."""
    inbound = PgInbound(settings.database_url)
    closing(inbound.close)
    traces = open_traces(settings.clickhouse_url, settings.database_url)
    closing(traces.close)
    poller = Poller(
        PollPorts(
            policy=ports.policy,
            vault=ports.vault,
            reader=Pop3Reader(confine_to_loopback=settings.is_lab),
            inbound=inbound,
            traces=traces,
            clock=ports.clock,
            token_ring=ports.token_ring,
            node=settings.node,
        )
    )
    closing(poller.stop)
    return poller
