"""Real services for tests: private, on loopback, thrown away.

Gives    the session fixtures `rabbitmq`, `redis_server`, `postgres_server`, `clickhouse_server`,
         `dovecot`, `postfix`, `exim`, `opensmtpd`, `signed_dns` and `documentdb`; service(), the
         same for code that is no test
Takes    Debian's packages, which make test installs as root; see deploy/test-packages.
         `documentdb` comes from deploy/documentdb.sh
Raises   a test whose service cannot be had on this machine is skipped, by name and with the
         reason; one that does not start fails with the end of its log

A conftest.py imports the fixtures it offers. At the first demand for any service all that the
collected tests ask for start side by side. They end with the session; should it be killed, their
guards end them.
"""

from __future__ import annotations

import atexit
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import pytest

from tests.support.services.base import MissingService as MissingService
from tests.support.services.clickhouse import ClickhouseServer as ClickhouseServer
from tests.support.services.demand import Demand, Maker, Service
from tests.support.services.documentdb import DocumentDb as DocumentDb
from tests.support.services.dovecot import Dovecot as Dovecot
from tests.support.services.exim import Exim as Exim
from tests.support.services.opensmtpd import OpenSmtpd as OpenSmtpd
from tests.support.services.postfix import Postfix as Postfix
from tests.support.services.postgres import PostgresServer as PostgresServer
from tests.support.services.rabbitmq import RabbitMq as RabbitMq
from tests.support.services.redis import RedisServer as RedisServer
from tests.support.services.redis import ValkeyServer as ValkeyServer
from tests.support.services.signed_dns import SignedDns as SignedDns

S = TypeVar("S")


def _dovecot_of(get: Callable[[str], Service]) -> Dovecot:
    found = get("dovecot")
    assert isinstance(found, Dovecot)
    return found


# By the names of the fixtures.
_MAKERS: Mapping[str, Maker] = {
    "rabbitmq": lambda get: RabbitMq(),
    "redis_server": lambda get: RedisServer(),
    "valkey_server": lambda get: ValkeyServer(),
    "postgres_server": lambda get: PostgresServer(),
    "clickhouse_server": lambda get: ClickhouseServer(),
    "dovecot": lambda get: Dovecot(),
    "postfix": lambda get: Postfix(_dovecot_of(get)),
    "signed_dns": lambda get: SignedDns(),
    "exim": lambda get: Exim(),
    "opensmtpd": lambda get: OpenSmtpd(),
    "documentdb": lambda get: DocumentDb(),
}


@functools.cache
def _demand() -> Demand:
    demand = Demand(_MAKERS)
    atexit.register(demand.stop)
    return demand


def service(name: str, kind: type[S]) -> S:
    """Return a service that is ready, or raise MissingService."""
    found = _demand().get(name)
    assert isinstance(found, kind)
    return found


def _give(request: pytest.FixtureRequest, name: str, kind: type[S]) -> S:
    """Return a service for a session; skip the tests that need one which cannot be had."""
    demand = _demand()
    asked = {one for item in request.session.items for one in getattr(item, "fixturenames", ())}
    demand.begin(asked.intersection(_MAKERS))
    try:
        found = demand.get(name)
    except MissingService as exc:
        pytest.skip(str(exc))
    assert isinstance(found, kind)
    # What deploy/suites.py prints of the suite.
    note = request.getfixturevalue("record_testsuite_property")
    note("service", f"{found.name} {found.version}")
    request.config.add_cleanup(demand.stop)
    return found


@pytest.fixture(scope="session")
def rabbitmq(request: pytest.FixtureRequest) -> RabbitMq:
    """A RabbitMQ node."""
    return _give(request, "rabbitmq", RabbitMq)


@pytest.fixture(scope="session")
def redis_server(request: pytest.FixtureRequest) -> RedisServer:
    """A Redis server."""
    return _give(request, "redis_server", RedisServer)


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest) -> PostgresServer:
    """A PostgreSQL server."""
    return _give(request, "postgres_server", PostgresServer)


@pytest.fixture(scope="session")
def clickhouse_server(request: pytest.FixtureRequest) -> ClickhouseServer:
    """A ClickHouse server."""
    return _give(request, "clickhouse_server", ClickhouseServer)


@pytest.fixture(scope="session")
def dovecot(request: pytest.FixtureRequest) -> Dovecot:
    """A Dovecot server."""
    return _give(request, "dovecot", Dovecot)


@pytest.fixture(scope="session")
def postfix(request: pytest.FixtureRequest) -> Postfix:
    """A Postfix that delivers into the mailboxes of `dovecot`."""
    return _give(request, "postfix", Postfix)


@pytest.fixture(scope="session")
def signed_dns(request: pytest.FixtureRequest) -> SignedDns:
    """Knot that signs, behind Unbound that checks."""
    return _give(request, "signed_dns", SignedDns)


@pytest.fixture(scope="session")
def exim(request: pytest.FixtureRequest) -> Exim:
    """An Exim with a mailbox of its own."""
    return _give(request, "exim", Exim)


@pytest.fixture(scope="session")
def opensmtpd(request: pytest.FixtureRequest) -> OpenSmtpd:
    """An OpenSMTPD with a mailbox of its own."""
    return _give(request, "opensmtpd", OpenSmtpd)


@pytest.fixture(scope="session")
def documentdb(request: pytest.FixtureRequest) -> Iterator[DocumentDb]:
    """DocumentDB, which speaks MongoDB's commands."""
    found = _give(request, "documentdb", DocumentDb)
    yield found
    found.kill()
    found.remove()
