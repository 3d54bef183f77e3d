"""An empty ledger for each test, and its two sides."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mailio.ledger.accept import Acceptor
from mailio.ledger.delivery import PgLedger
from tests.io.ledger import world


@pytest.fixture
def dsn() -> str:
    return world.empty()


@pytest.fixture
def acceptor(dsn: str) -> Iterator[Acceptor]:
    side = Acceptor(dsn)
    yield side
    side.close()


@pytest.fixture
def ledger(dsn: str) -> Iterator[PgLedger]:
    side = PgLedger(dsn)
    yield side
    side.close()


@pytest.fixture
async def incarnation(ledger: PgLedger) -> int:
    return await ledger.register(node="n1", process="delivery-1", journal="j1")
