"""When the line to ClickHouse breaks, stays silent or leads nowhere."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from mailcore.ports import StoreUnavailable
from mailio.settings import SettingsError
from mailio.stats import ClickhouseStatistics, open_statistics
from mailio.stats.chdb import ChdbDriver
from mailio.stats.clickhouse import ClickhouseDriver
from tests.io.stats.world import body, event
from tests.support.stack import chdb_url


def silent(listener: socket.socket, heard: list[bytes]) -> None:
    """Take one connection, read a little, say nothing."""
    listener.settimeout(10)
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(10)
        while got := connection.recv(65536):
            heard.append(got)


@pytest.fixture
def unix_listener(tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    path = tmp_path / "a socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        yield listener, f"chdb+unix://{quote(str(path))}"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8123/",
        "",
        "chdb+unix://host/path",
        "chdb+unix:///path?user=x",
        "clickhouse:///database",
        "clickhouse://127.0.0.1/a/b",
        "clickhouse://127.0.0.1/a?secure=1",
        "clickhouse://127.0.0.1:port/a",
    ],
)
def test_an_address_of_no_known_form_is_refused_by_name(url: str) -> None:
    with pytest.raises(SettingsError, match="CLICKHOUSE_URL"):
        open_statistics(url)


def test_a_store_that_is_away_says_so(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for url in (f"chdb+unix://{quote(str(tmp_path / 'none'))}", f"clickhouse://127.0.0.1:{port}/x"):
        statistics = open_statistics(url)
        for ask in (statistics.migrate, statistics.counts, lambda s=statistics: s.insert([BODY])):
            with pytest.raises(StoreUnavailable, match="clickhouse: "):
                ask()
        statistics.close()


def test_tables_that_are_not_there_yet_are_an_operational_fault(url: str) -> None:
    statistics = open_statistics(url)
    for ask in (statistics.counts, lambda: statistics.insert([BODY])):
        with pytest.raises(StoreUnavailable, match="not migrated"):
            ask()
    statistics.close()


def test_closed_statistics_answer_nothing_any_more(statistics: ClickhouseStatistics) -> None:
    statistics.counts()
    statistics.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        statistics.counts()


def test_an_owner_that_says_nothing_is_not_waited_for(
    unix_listener: tuple[socket.socket, str],
) -> None:
    listener, url = unix_listener
    heard: list[bytes] = []
    peer = threading.Thread(target=silent, args=(listener, heard))
    peer.start()
    driver = ChdbDriver(url, reply_s=0.1)
    with pytest.raises(StoreUnavailable, match=r"no answer within 0\.1 s"):
        driver.query("SELECT 1")
    driver.close()
    peer.join()
    assert b"SELECT 1" in b"".join(heard)


def test_a_server_that_says_nothing_is_not_waited_for() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        peer = threading.Thread(target=silent, args=(listener, []))
        peer.start()
        port = listener.getsockname()[1]
        driver = ClickhouseDriver(f"clickhouse://127.0.0.1:{port}/x", reply_s=0.1, connect_s=0.1)
        with pytest.raises(StoreUnavailable, match="clickhouse: "):
            driver.query("SELECT 1")
        driver.close()
        peer.join()


def test_an_owner_that_hangs_up_twice_is_away(unix_listener: tuple[socket.socket, str]) -> None:
    listener, url = unix_listener

    def hang_up() -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            connection.close()

    peer = threading.Thread(target=hang_up)
    peer.start()
    driver = ChdbDriver(url)
    with pytest.raises(StoreUnavailable, match="the connection broke"):
        driver.query("SELECT 1")
    driver.close()
    peer.join()


def test_an_answer_of_no_known_form_is_a_broken_line(
    unix_listener: tuple[socket.socket, str],
) -> None:
    listener, url = unix_listener

    def babble() -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"\0\0\0\2[]")

    peer = threading.Thread(target=babble)
    peer.start()
    driver = ChdbDriver(url)
    with pytest.raises(StoreUnavailable, match="no known form"):
        driver.query("SELECT 1")
    driver.close()
    peer.join()


def test_lines_that_broke_while_idle_are_opened_again(url: str) -> None:
    statistics = open_statistics(url)
    statistics.migrate()
    driver = statistics._driver
    for _ in range(2):
        assert isinstance(driver, ChdbDriver | ClickhouseDriver)
        for idle in driver._idle:
            line = idle if isinstance(idle, socket.socket) else idle.connection.socket
            line.shutdown(socket.SHUT_RDWR)
        statistics.insert([BODY])
    assert statistics.counts() == {"delivered": 1}
    statistics.close()


def test_the_database_is_made_where_it_is_missing() -> None:
    url = chdb_url() + "_new`x"
    statistics = open_statistics(url)
    statistics.migrate()
    statistics.insert([BODY])
    assert statistics.counts() == {"delivered": 1}
    statistics.close()


BODY = body(event())
