"""The wire is tested on the loop the workers use.

Gives: uvloop for the tests of SMTP and DNS, asyncio's own loop for all others here; the real
    services of the test stack.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

from tests.support.services import clickhouse_server as clickhouse_server
from tests.support.services import dovecot as dovecot
from tests.support.services import exim as exim
from tests.support.services import opensmtpd as opensmtpd
from tests.support.services import postfix as postfix
from tests.support.services import postgres_server as postgres_server
from tests.support.services import rabbitmq as rabbitmq
from tests.support.services import redis_server as redis_server
from tests.support.services import signed_dns as signed_dns
from tests.support.smtpd_fixtures import furniture as furniture
from tests.support.smtpd_fixtures import house as house
from tests.support.smtpd_fixtures import server as server

ON_UVLOOP = ("test_smtp", "test_dns")


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Choose the loop of a test by the file it stands in."""
    if item.path.name.startswith(ON_UVLOOP):
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}
