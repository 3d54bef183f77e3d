"""The main job on the real services: what the receivers counted, and what ours say of it."""

import psycopg2
import redis

from mailio.broker import queues_of
from tests.e2e.services.conftest import CAMPAIGN, Served
from tests.support.fleet import eventually
from tests.support.services import ClickhouseServer, PostgresServer, RabbitMq, RedisServer


def test_every_accepted_message_is_at_a_receiver_or_refused_by_one_and_none_came_twice(
    served: Served,
) -> None:
    seen = served.running.seen(served.campaign)
    assert len(seen.accepted) + len(seen.refused) == served.campaign.accepted == CAMPAIGN
    assert not seen.accepted & seen.refused
    assert seen.copies == 0


def test_the_statistics_on_the_old_server_say_what_the_receivers_counted(
    served: Served, clickhouse_server: ClickhouseServer
) -> None:
    running, seen = served.running, served.running.seen(served.campaign)
    counts = running.statistics.final_counts(campaign=served.campaign.campaign)
    assert counts == {"delivered": len(seen.accepted), "bounced": len(seen.refused)}
    assert f":{clickhouse_server.port}/" in running.settings.clickhouse_url
    assert clickhouse_server.version.startswith("18.16.")


def test_each_queue_of_the_node_has_its_consumer_and_no_bell_is_left(
    served: Served, rabbitmq: RabbitMq
) -> None:
    url, node = served.running.settings.broker_url, served.running.settings.node
    wanted = set(queues_of("", node))

    def all_read() -> bool:
        found = rabbitmq.queues(url)
        consumers = {name: found.get(name, {}).get("consumers", 0) for name in wanted}
        waiting = sum(found.get(name, {}).get("messages", 1) for name in wanted)
        return all(consumers.values()) and not waiting

    eventually(all_read, what=lambda: rabbitmq.queues(url))
    types = {rabbitmq.queues(url)[name]["type"] for name in wanted}
    assert types == {"classic"}


def test_rows_and_limits_lie_on_the_servers_it_was_given(
    served: Served, postgres_server: PostgresServer, redis_server: RedisServer
) -> None:
    settings = served.running.settings
    assert f":{postgres_server.port}/" in settings.database_url
    connection = psycopg2.connect(settings.database_url)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM policy_revision")
        assert cursor.fetchone() != (0,)
    connection.close()
    assert f":{redis_server.port}/" in settings.redis_url
    client: redis.Redis = redis.Redis.from_url(settings.redis_url)
    assert any(True for _ in client.scan_iter("pf:*", count=1000))
    client.close()


def test_the_fleet_starts_no_service_that_it_was_given(served: Served) -> None:
    started = {path.stem for path in (served.running.house.var_dir / "log").glob("*.log")}
    assert {"web", "priority", "event", "upkeep", "beat"} <= started
    assert not started & {"postgres", "valkey", "clickhouse"}
