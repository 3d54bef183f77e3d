"""Fixtures of a listener: `house`, empty; `server`, listening for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.smtpd import House, Listening, furnished

_TABLES = "ledger_row, ledger_lane, ledger_outbox, ledger_idempotency, stop_entry, campaign"


@pytest.fixture(scope="module")
def furniture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with furnished(tmp_path_factory.mktemp("smtpd")) as house:
        yield house


@pytest.fixture
def house(furniture: House) -> House:
    furniture.query(f"TRUNCATE {_TABLES}")
    return furniture


@pytest.fixture
def server(house: House) -> Iterator[Listening]:
    with Listening(house) as listening:
        yield listening
