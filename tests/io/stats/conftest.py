"""Statistics on each engine there is: the embedded one always, a server where it is installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mailio.stats import ClickhouseStatistics, open_statistics
from tests.io.stats.server import server_url
from tests.support.stack import chdb_url


@pytest.fixture(params=["chdb", "clickhouse-server"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "chdb":
        return chdb_url()
    found = server_url()
    if found is None:
        pytest.skip("clickhouse-server is not installed: the server's half of this test is left")
    return found


@pytest.fixture
def statistics(url: str) -> Iterator[ClickhouseStatistics]:
    opened = open_statistics(url)
    opened.migrate()
    yield opened
    opened.close()
