"""Put together what tells senders by mail: a front door of this process, for its own reports.

Gives    open_reporter
Takes    settings, the policy of the process, and what to call at its end
Raises   SettingsError for an SMTPD_HOST that is none
"""

from __future__ import annotations

import os
from collections.abc import Callable

from mailcore.policy.model import Node
from mailcore.ports import PolicySource
from mailio.clock import LedgerClock
from mailio.intake import Intake
from mailio.ledger.accept import Acceptor
from mailio.reports import SpoolReportDoor
from mailio.settings import Settings
from mailio.smtpd_settings import read_smtpd_host
from mailio.spool.opening import open_spool
from mailio.wake import RedisWaker
from workers.engines.report import Reporter


def open_reporter(
    settings: Settings, policy: PolicySource, closing: Callable[[Callable[[], object]], None]
) -> Reporter:
    """Return the reporter of this process. Nothing is connected before the first report."""
    acceptor = Acceptor(settings.database_url)

    def must_stay_free() -> int:
        node = policy.current().nodes.get(settings.node) or Node(0, settings.node)
        return node.spool_stop_bytes

    spool = open_spool(settings, min_free_bytes=must_stay_free, owner=acceptor.installation)
    waker = RedisWaker(settings.redis_url)
    for close in (waker.close, acceptor.close, spool.close):
        closing(close)
    clock = LedgerClock()
    intake = Intake(acceptor, spool, clock=clock, waker=waker)
    return Reporter(
        policy=policy,
        door=SpoolReportDoor(intake, spool),
        clock=clock,
        host=read_smtpd_host(os.environ),
    )
