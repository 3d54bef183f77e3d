"""The snapshot of a process: verified, swapped, kept when the store is away."""

import time
from collections.abc import Iterator

import psycopg2
import pytest

from mailcore.policy import codec
from mailcore.policy.model import Node, PolicySnapshot
from mailio.snapshots import SnapshotStore, announce, schema_sql
from tests.support.stack import drop_postgres, postgres_url, redis_url
from workers.policy_cache import PolicyCache, PolicyMissing


@pytest.fixture
def dsn() -> Iterator[str]:
    url = postgres_url()
    execute(url, schema_sql())
    yield url
    drop_postgres(url)


def execute(dsn: str, query: str, *params: object) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(dsn)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(query, params or None)
            return list(cursor.fetchall()) if cursor.description else []
    finally:
        connection.close()


def publish(dsn: str, revision: int, *, digest: str = "", body: bytes = b"") -> None:
    """Store a revision that differs from every other by a node's name, and make it active."""
    stored = codec.encode(PolicySnapshot(0, nodes={f"n{revision}": Node(1, f"n{revision}")}))
    execute(dsn, "UPDATE policy_revision SET is_active = false")
    execute(
        dsn,
        "INSERT INTO policy_revision (revision, digest, schema_version, body, is_active)"
        " VALUES (%s, %s, 1, %s, true)",
        revision,
        digest or stored.digest,
        body or stored.body,
    )


def begin(dsn: str) -> PolicyCache:
    return PolicyCache(SnapshotStore(dsn), node="n", process="p")


def test_a_process_without_any_policy_refuses_to_start(dsn: str) -> None:
    with pytest.raises(PolicyMissing, match="no policy has been published yet"):
        begin(dsn)


def test_a_process_whose_first_policy_is_damaged_refuses_to_start(dsn: str) -> None:
    publish(dsn, 1, digest="0" * 64)
    with pytest.raises(PolicyMissing, match="cannot be read"):
        begin(dsn)


def test_a_new_revision_is_swapped_in_whole_and_told(dsn: str) -> None:
    publish(dsn, 1)
    cache = begin(dsn)
    held = cache.current()
    publish(dsn, 2)
    assert cache.refresh()
    assert held.revision == 1
    assert list(held.nodes) == ["n1"]
    assert (cache.revision, list(cache.current().nodes)) == (2, ["n2"])
    assert execute(dsn, "SELECT node, process, revision FROM policy_ack") == [("n", "p", 2)]
    cache.stop()
    assert execute(dsn, "SELECT * FROM policy_ack") == []


def test_going_back_to_an_older_revision_is_a_swap_too(dsn: str) -> None:
    publish(dsn, 1)
    publish(dsn, 2)
    cache = begin(dsn)
    execute(dsn, "UPDATE policy_revision SET is_active = false WHERE revision = 2")
    execute(dsn, "UPDATE policy_revision SET is_active = true WHERE revision = 1")
    assert cache.refresh()
    assert cache.revision == 1
    cache.stop()


def test_a_revision_that_cannot_be_read_is_refused_and_the_next_good_one_taken(dsn: str) -> None:
    publish(dsn, 1)
    cache = begin(dsn)
    before = cache.staleness_s()
    publish(dsn, 2, body=b"damaged")
    assert not cache.refresh()
    assert not cache.refresh()
    assert cache.revision == 1
    assert cache.staleness_s() > before
    publish(dsn, 3)
    assert cache.refresh()
    assert cache.revision == 3
    cache.stop()


def test_with_the_store_away_the_last_good_one_stays_and_grows_stale(dsn: str) -> None:
    publish(dsn, 1)
    cache = begin(dsn)
    drop_postgres(dsn)
    first = cache.staleness_s()
    assert not cache.refresh()
    assert cache.revision == 1
    assert cache.staleness_s() > first
    cache.stop()


def test_a_process_that_follows_swaps_on_the_notice(dsn: str) -> None:
    publish(dsn, 1)
    url = redis_url()
    cache = begin(dsn)
    cache.follow(url)
    try:
        publish(dsn, 2)
        deadline = time.monotonic() + 60
        while cache.revision != 2 and time.monotonic() < deadline:
            announce(url, 2)
        assert cache.revision == 2
    finally:
        cache.stop()
