"""The fleet on services of its own: RabbitMQ, Redis, PostgreSQL and ClickHouse 18.16."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.fleet import Load, Running, eventually, starting
from tests.support.services import ClickhouseServer, PostgresServer, RabbitMq, RedisServer
from tests.support.services import clickhouse_server as clickhouse_server
from tests.support.services import dovecot as dovecot
from tests.support.services import postfix as postfix
from tests.support.services import postgres_server as postgres_server
from tests.support.services import rabbitmq as rabbitmq
from tests.support.services import redis_server as redis_server

CAMPAIGN = 300


@dataclass(frozen=True, slots=True)
class Served:
    """A fleet that runs on real services, and a campaign that went through it."""

    running: Running
    campaign: Load


@pytest.fixture(scope="package")
def served(
    rabbitmq: RabbitMq,
    redis_server: RedisServer,
    postgres_server: PostgresServer,
    clickhouse_server: ClickhouseServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    """The fleet, with nothing of its own but the lab."""
    services = {
        "BROKER_URL": rabbitmq.virtual_host(),
        "REDIS_URL": redis_server.database(),
        "DATABASE_URL": postgres_server.database(),
        "CLICKHOUSE_URL": clickhouse_server.database(),
    }
    with starting(tmp_path_factory.mktemp("served"), services) as running:
        *_, load = running.load(CAMPAIGN)
        assert load.accepted == CAMPAIGN
        eventually(lambda: running.queued(load.campaign) == 0, within_s=120)
        running.wait_applied()
        yield Served(running, load)
