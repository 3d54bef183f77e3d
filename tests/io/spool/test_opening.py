"""Which spool a URL names, and what is wrong with one that names none."""

from __future__ import annotations

import base64
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mailio.settings import Settings, SettingsError, load
from mailio.shelves import SegmentDirectory
from mailio.spool.mongo_shelf import MongoShelf
from mailio.spool.mongo_store import connect
from mailio.spool.mongodb import MongoSpool
from mailio.spool.opening import open_shelf, open_spool
from mailio.spool.segments import SegmentSpool

SECRET = "hunter2"


def settings(spool_url: str) -> Settings:
    names = ("DATABASE_URL", "BROKER_URL", "REDIS_URL", "CLICKHOUSE_URL")
    keys = f"1:{base64.b64encode(bytes(32)).decode()}"
    return load(dict.fromkeys(names, "x") | {"SECRET_KEYS": keys, "SPOOL_URL": spool_url})


@pytest.mark.parametrize(
    "url",
    [
        f"mongodb://user:{SECRET}@one.test:27017,two.test/spool?replicaSet=rs0&tls=true",
        "mongodb+srv://cluster.test/spool",
        "mongodb://[::1]:27017/spool",
    ],
)
def test_a_database_is_a_spool_that_nodes_share(url: str) -> None:
    found = settings(url)
    assert found.has_shared_spool
    with pytest.raises(SettingsError, match="SPOOL_URL"):
        _ = found.spool_dir


def test_nothing_is_connected_before_it_is_used() -> None:
    found = settings("mongodb://192.0.2.1/spool")
    with closing(open_spool(found)) as spool, closing(open_shelf(found)) as shelf:
        assert isinstance(spool, MongoSpool)
        assert isinstance(shelf, MongoShelf)


def test_a_directory_is_a_spool_of_one_node(tmp_path: Path) -> None:
    found = settings(f"file://{tmp_path}/spool")
    assert not found.has_shared_spool
    with closing(open_spool(found)) as spool, closing(open_shelf(found)) as shelf:
        assert isinstance(spool, SegmentSpool)
        assert isinstance(shelf, SegmentDirectory)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("spool", "neither file:///an/absolute/directory nor mongodb://"),
        ("file://spool", "neither file:///an/absolute/directory nor mongodb://"),
        ("s3://bucket/spool", "neither file:///an/absolute/directory nor mongodb://"),
        ("mongodb:///spool", "it names no host"),
        (f"mongodb://u:{SECRET}@h.test", "the name of a database"),
        (f"mongodb://u:{SECRET}@h.test/?tls=true", "the name of a database"),
        ("mongodb://h.test/a.b", "the name of a database"),
        ("mongodb+srv://h.test", "the name of a database"),
        (f"mongodb://u:{SECRET}@h.test:x/spool", "Port contains"),
        (f"mongodb://u:{SECRET}@h.test/spool?tls=perhaps", "tls"),
        (f"mongodb://u:x@{SECRET}@h.test/spool", "as %XX"),
        (f"mongodb://u:x/{SECRET}@h.test/spool", "as %XX"),
        (f"mongodb://u:x:{SECRET}@h.test/spool", "as %XX"),
    ],
)
def test_what_names_no_spool_is_refused_with_its_reason_and_without_a_password(
    url: str, reason: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(url)
    text = str(caught.value)
    assert text.startswith("SPOOL_URL: ")
    assert reason in text
    assert SECRET not in text


def test_the_url_may_say_how_long_to_wait() -> None:
    given: dict[str, Any] = {"socketTimeoutMS": 20_000, "connectTimeoutMS": 5_000}
    url = "mongodb://192.0.2.1/spool?sockettimeoutms=1234&maxPoolSize=3"
    client = connect(url, times_ms=given)
    try:
        pool = client.options.pool_options
        assert (pool.socket_timeout, pool.connect_timeout, pool.max_pool_size) == (1.234, 5.0, 3)
    finally:
        client.close()
