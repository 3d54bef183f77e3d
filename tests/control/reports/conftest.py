"""Statistics with something in them, and the panel that reads them."""

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from django.conf import settings
from django.core.cache import cache

from control.reports.selectors import close_reports
from mailio.settings import Settings
from mailio.stats import ClickhouseStatistics, open_statistics
from tests.support.stack import chdb_url


@pytest.fixture
def statistics(stores: Settings) -> Iterator[ClickhouseStatistics]:
    """Empty statistics that the panel of this test reads."""
    url = chdb_url()
    opened = open_statistics(url)
    opened.migrate()
    settings.POSTFLEET = dataclasses.replace(stores, clickhouse_url=url)
    cache.clear()
    yield opened
    opened.close()
    close_reports()
    settings.POSTFLEET = stores
    cache.clear()


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def away(stores: Settings) -> Iterator[None]:
    """The panel's statistics are at an address where nobody answers."""
    settings.POSTFLEET = stores
    cache.clear()
    yield
    cache.clear()
