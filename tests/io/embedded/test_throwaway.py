"""The throwaway stack that other suites use: fresh databases, never one of the caller's."""

import psycopg2
import pytest
import redis

from tests.io.embedded.world import query
from tests.support.stack import ask_chdb, chdb_url, drop_postgres, postgres_url, redis_url


def test_every_postgresql_database_is_fresh_and_can_be_dropped() -> None:
    first, second = postgres_url(), postgres_url()
    query(first, "CREATE TABLE mine ()")
    assert query(second, "SELECT to_regclass('mine')") is None
    assert query(first, "SHOW fsync") == "off"
    drop_postgres(second)
    with pytest.raises(psycopg2.OperationalError, match="does not exist"):
        query(second, "SELECT 1")
    with pytest.raises(ValueError, match="not a database of this module"):
        drop_postgres(first.rpartition("/")[0] + "/postfleet")


def test_every_valkey_database_is_empty() -> None:
    first, second = redis_url(), redis_url()
    with redis.Redis.from_url(first) as one, redis.Redis.from_url(second) as two:
        one.set("mine", "yes")
        assert two.keys() == []


def test_every_clickhouse_database_is_fresh() -> None:
    first, second = chdb_url(), chdb_url()
    assert ask_chdb(first, "CREATE TABLE mine (n Int8) ENGINE = MergeTree ORDER BY n")[0]["ok"]
    assert ask_chdb(second, "SHOW TABLES")[0]["rows"] == 0


def test_the_callers_own_services_are_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://192.0.2.1/precious")
    assert "192.0.2.1" not in postgres_url()
