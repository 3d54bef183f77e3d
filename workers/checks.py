"""This node's spool as upkeep sees it, and the checker of the queue: their adapters put together.

Gives    open_shelves, open_checks
Takes    the settings of the process, what calls something at its end
Raises   nothing: connections are made when they are first used
"""

from __future__ import annotations

from collections.abc import Callable

from mailcore.ports import PolicySource
from mailcore.spool import CONTENT_GRACE_S
from mailio.broker import CONSUMERS
from mailio.check import Checker
from mailio.ledger.check import CheckBook
from mailio.ledger.spool import SpoolBook
from mailio.settings import Settings
from mailio.spool.opening import open_shelf
from workers.engines.check import CheckPorts
from workers.engines.sweep import SpoolPorts
from workers.engines.upkeep import UpkeepPorts

# No accept of the lab takes so long; what was delivered is gone while people look.
CONTENT_GRACE_LAB_S = 60.0

Closing = Callable[[Callable[[], object]], None]


def open_shelves(settings: Settings, policy: PolicySource, closing: Closing) -> SpoolPorts:
    """Return what sweeps and measures work with."""
    shelf, book = open_shelf(settings), SpoolBook(settings.database_url)
    closing(shelf.close)
    closing(book.close)
    grace_s = CONTENT_GRACE_LAB_S if settings.is_lab else CONTENT_GRACE_S
    return SpoolPorts(settings.node, policy, shelf, book, grace_s, settings.has_shared_spool)


def open_checks(
    settings: Settings, upkeep: UpkeepPorts, spool: SpoolPorts, closing: Closing
) -> CheckPorts:
    """Return what the checker works with."""
    book = CheckBook(settings.database_url)
    closing(book.close)
    checker = Checker(book, spool.ledger, spool.shelf, node=settings.node, consumers=CONSUMERS)
    return CheckPorts(checker, upkeep, spool)
