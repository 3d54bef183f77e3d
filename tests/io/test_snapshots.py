"""Revisions in PostgreSQL, notices over Redis."""

import threading
from collections.abc import Iterator

import psycopg2
import pytest

from mailcore.ports import StoreUnavailable
from mailio.snapshots import SnapshotStore, announce, schema_sql, watch
from tests.support.stack import drop_postgres, postgres_url, redis_url

NOBODY = "redis://127.0.0.1:1/0"


@pytest.fixture
def dsn() -> Iterator[str]:
    url = postgres_url()
    run(url, schema_sql())
    yield url
    drop_postgres(url)


def run(dsn: str, query: str) -> None:
    connection = psycopg2.connect(dsn)
    with connection, connection.cursor() as cursor:
        cursor.execute(query)
    connection.close()


def rows(dsn: str, query: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(dsn)
    try:
        with connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())
    finally:
        connection.close()


def test_the_active_revision_is_found_and_any_by_its_number(dsn: str) -> None:
    store = SnapshotStore(dsn)
    assert store.active() is None
    assert store.active_number() is None
    run(
        dsn,
        "INSERT INTO policy_revision (revision, digest, schema_version, body, is_active) VALUES"
        " (1, 'a', 1, 'one', false), (2, 'b', 1, 'two', true)",
    )
    active = store.active()
    assert active is not None
    assert (active.revision, active.digest, active.body) == (2, "b", b"two")
    assert store.active_number() == (2, "b")
    older = store.fetch(1)
    assert older is not None
    assert older.body == b"one"
    assert store.fetch(3) is None
    store.close()


def test_a_process_says_which_revision_it_runs_and_is_forgotten_a_day_later(dsn: str) -> None:
    store = SnapshotStore(dsn)
    store.acknowledge(node="n", process="old", revision=1)
    run(dsn, "UPDATE policy_ack SET at = at - interval '2 days'")
    store.acknowledge(node="n", process="p", revision=1)
    store.acknowledge(node="n", process="p", revision=2)
    assert rows(dsn, "SELECT node, process, revision FROM policy_ack") == [("n", "p", 2)]
    store.retire(node="n", process="p")
    assert rows(dsn, "SELECT * FROM policy_ack") == []
    store.close()


def test_a_store_that_is_away_is_named_and_asked_again_when_it_is_back(dsn: str) -> None:
    store = SnapshotStore(dsn)
    assert store.active() is None
    run(
        dsn,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    with pytest.raises(StoreUnavailable) as away:
        store.active()
    assert away.value.store == "postgresql"
    assert store.active() is None
    store.close()


def test_a_notice_wakes_the_watcher_long_before_it_would_poll() -> None:
    url = redis_url()
    calls = threading.Semaphore(0)
    watcher = watch(url, calls.release, poll_s=3600)
    try:
        assert calls.acquire(timeout=60)  # once it listens
        assert announce(url, 5)
        assert calls.acquire(timeout=60)
    finally:
        watcher.stop()


def test_without_a_notice_and_without_redis_the_watcher_polls() -> None:
    for url in (redis_url(), NOBODY):
        calls = threading.Semaphore(0)
        watcher = watch(url, calls.release, poll_s=0.05)
        try:
            assert all(calls.acquire(timeout=60) for _ in range(3))
        finally:
            watcher.stop()


def test_a_notice_nobody_can_take_is_no_failure() -> None:
    assert not announce(NOBODY, 1)
