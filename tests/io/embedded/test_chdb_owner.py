"""The owner of chdb: what it answers, what it refuses, what it survives."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from embedded import clickhouse
from tests.io.embedded.conftest import Running
from tests.io.embedded.world import TOP, bare_environment, eventually
from tests.support.stack import ask_chdb

KAFKA = (
    "CREATE TABLE feed (n Int32) ENGINE = Kafka SETTINGS kafka_broker_list = '127.0.0.1:1',"
    " kafka_topic_list = 't', kafka_group_name = 'g', kafka_format = 'JSONEachRow'"
)


@pytest.fixture(scope="module")
def url(running: Running) -> str:
    server = running.urls["CLICKHOUSE_URL"]
    assert ask_chdb(server, "CREATE DATABASE owner_tests")[0]["ok"]
    return f"{server}?database=owner_tests"


@contextmanager
def owner_of(data: Path) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """An owner of our own, for the tests that end it."""
    path = Path(os.path.relpath(data.parent)) if len(str(data)) > 90 else data.parent
    address = path / "s"
    data.mkdir(exist_ok=True)
    owner = subprocess.Popen(
        [sys.executable, "-m", "embedded.chdb_owner", "--data", str(data), "--socket", address],
        env={**bare_environment(), "PYTHONPATH": str(TOP / "platform")},
        stderr=subprocess.PIPE,
    )

    def is_ready() -> bool:
        assert owner.poll() is None, owner.stderr.read().decode() if owner.stderr else ""
        try:
            return clickhouse.answers(address)
        except OSError:
            return False

    with owner:
        try:
            eventually(is_ready)
            yield owner, f"chdb+unix://{address}"
        finally:
            owner.terminate()
            owner.wait(60)


def send_raw(url: str, data: bytes) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(10)
        connection.connect(unquote(urlsplit(url).path))
        connection.sendall(data)
        with connection.makefile("rb") as stream:
            (size,) = struct.unpack("!I", stream.read(4))
            answer: dict[str, Any] = json.loads(stream.read(size))
            assert stream.read() == b""  # and it hung up
            return answer


def test_a_hundred_thousand_rows_go_in_by_one_insert(url: str) -> None:
    ask_chdb(url, "CREATE TABLE big (n UInt32, t String) ENGINE = MergeTree ORDER BY n")
    rows = "\n".join(json.dumps({"n": n, "t": f"Zeile {n} ü"}) for n in range(100_000))
    header, _ = ask_chdb(url, "INSERT INTO big FORMAT JSONEachRow", rows.encode())
    assert (header["ok"], header["rows"]) == (True, 100_000)
    _, body = ask_chdb(url, "SELECT count(), max(n), any(t) LIKE '%ü' FROM big", format="TSV")
    assert body == b"100000\t99999\t1\n"


def test_a_bad_row_refuses_the_insert_and_the_owner_lives_on(url: str) -> None:
    ask_chdb(url, "CREATE TABLE strict (n UInt32) ENGINE = MergeTree ORDER BY n")
    header, _ = ask_chdb(url, "INSERT INTO strict FORMAT JSONEachRow", b'{"n":1}\n{"n":"x"}')
    assert (header["ok"], header["code"]) == (False, 27)
    assert "at row 2" in header["error"]
    assert ask_chdb(url, "SELECT count() AS n FROM strict")[1] == b'{"n":0}\n'


def test_parameters_of_every_kind_arrive_as_they_were(url: str) -> None:
    hard = 'it\'s\n\t\\ "ü" {n:Int8}'
    params = {"s": hard, "n": -7, "f": 0.5, "b": True, "z": None, "l": ["a'b", "c\nd\\"], "e": []}
    query = (
        "SELECT {s:String} s, {n:Int8} n, {f:Float64} f, {b:Bool} b, {z:Nullable(String)} z,"
        " {l:Array(String)} l, {e:Array(Int8)} e"
    )
    header, body = ask_chdb(url, query, params=params)
    assert header["ok"], header["error"]
    assert json.loads(body) == params


def test_settings_hold_for_their_query_alone(url: str) -> None:
    ask = "SELECT getSetting('max_block_size') AS n"
    before = ask_chdb(url, ask)[1]
    assert ask_chdb(url, ask, settings={"max_block_size": 77})[1] == b'{"n":77}\n'
    header, _ = ask_chdb(url, "SELECT nonsense", settings={"max_block_size": 78})
    assert header["code"] == 47
    assert ask_chdb(url, ask)[1] == before


def test_each_query_sees_its_own_database(url: str) -> None:
    ask_chdb(url, "CREATE TABLE here (n Int8) ENGINE = MergeTree ORDER BY n")
    header, _ = ask_chdb(url.partition("?")[0], "SELECT * FROM here")
    assert header["code"] == 60
    assert ask_chdb(url, "SELECT * FROM here")[0]["ok"]


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ({"query": " "}, "query: it is empty"),
        ({"query": 7}, "query: a text is wanted"),
        ({"query": "/* x */ set max_threads = 1"}, "query: SET is refused"),
        ({"query": "USE system"}, "query: USE is refused"),
        ({"query": "SELECT 1", "format": "DataFrame"}, "format: DataFrame cannot be sent"),
        ({"query": "SELECT 1", "settings": []}, "settings: an object is wanted"),
        ({"query": "SELECT 1", "settings": [1]}, "settings: an object is wanted"),
        ({"query": "SELECT 1", "settings": {"a = 1; --": 1}}, "is not a name"),
        ({"query": "SELECT 1", "settings": {"max_threads": {}}}, "max_threads is neither"),
        ({"query": "SELECT 1", "params": {"p": {}}}, "params: p is neither"),
    ],
)
def test_a_malformed_request_is_refused_by_field(
    url: str, header: dict[str, Any], complaint: str
) -> None:
    query = header.pop("query")
    answer, _ = ask_chdb(url, query, **header)
    assert (answer["ok"], answer["code"]) == (False, -1)
    assert complaint in answer["error"]


@pytest.mark.parametrize(
    ("data", "code", "complaint"),
    [
        (struct.pack("!I", 5) + b"{oops", -1, "the header is not JSON"),
        (struct.pack("!I", 2) + b"\xff\xfe", -1, "the header is not JSON"),
        (struct.pack("!I", 2) + b"[]", -1, "not a JSON object"),
        (struct.pack("!I", 2**31), -2, "the header has 2147483648 bytes"),
        (struct.pack("!I", 18) + b'{"body_length":-1}', -1, "body_length: a count"),
        (struct.pack("!I", 26) + b'{"body_length":9999999999}', -2, "the body has 9999999999"),
    ],
)
def test_a_broken_frame_is_answered_and_the_connection_closed(
    url: str, data: bytes, code: int, complaint: str
) -> None:
    answer = send_raw(url, data)
    assert (answer["ok"], answer["code"]) == (False, code)
    assert complaint in answer["error"]
    assert ask_chdb(url, "SELECT 1")[0]["ok"]


def test_many_clients_at_once_get_their_own_answers(url: str) -> None:
    def ask(n: int) -> bytes:
        return ask_chdb(url, f"SELECT {n} AS n, sleepEachRow(0.001)", format="TSV")[1]

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(64))) == [f"{n}\t0\n".encode() for n in range(64)]


def test_a_client_that_leaves_in_the_middle_harms_nobody(url: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(unquote(urlsplit(url).path))
        head = json.dumps({"query": "SELECT 1", "body_length": 1000}).encode()
        connection.sendall(struct.pack("!I", len(head)) + head + b"cut")
    assert ask_chdb(url, "SELECT 1")[0]["ok"]


def test_a_failed_create_leaves_nothing_and_the_directory_opens_again(tmp_path: Path) -> None:
    data = tmp_path / "d"
    with owner_of(data) as (_, address):
        ask_chdb(address, "CREATE TABLE kept (n Int8) ENGINE = MergeTree ORDER BY n")
        header, _ = ask_chdb(address, KAFKA)
        assert not header["ok"]
        assert ask_chdb(address, "SHOW TABLES", format="TSV")[1] == b"kept\n"
    with owner_of(data) as (_, address):
        assert ask_chdb(address, "SHOW TABLES", format="TSV")[1] == b"kept\n"


def test_a_create_that_a_crash_cut_off_is_set_aside(tmp_path: Path) -> None:
    data = tmp_path / "d"
    with owner_of(data) as (_, address):
        ask_chdb(address, "CREATE TABLE kept (n Int8) ENGINE = MergeTree ORDER BY n")
    (kept,) = [p for p in data.glob("store/*/*/*.sql") if p.name == "kept.sql"]
    before = [str(p.relative_to(data)) for p in (kept, *data.glob("metadata/*.sql"))]
    (data / "creating.json").write_text(json.dumps(before))
    kept.with_name("half.sql").write_text("ATTACH TABLE _ UUID 'no")
    with owner_of(data) as (_, address):
        assert ask_chdb(address, "SHOW TABLES", format="TSV")[1] == b"kept\n"
    assert [p.read_text() for p in (data / "refused").iterdir()] == ["ATTACH TABLE _ UUID 'no"]
    assert not (data / "creating.json").exists()


def test_sigterm_lets_the_running_query_finish_and_closes_cleanly(tmp_path: Path) -> None:
    data = tmp_path / "d"
    with owner_of(data) as (owner, address):
        ask_chdb(address, "CREATE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n")
        answers = []
        slow = "INSERT INTO t SELECT number FROM numbers(10) WHERE sleepEachRow(0.05) = 0"
        by_row = {"max_block_size": 1, "min_insert_block_size_rows": 1, "max_threads": 1}
        client = threading.Thread(
            target=lambda: answers.append(ask_chdb(address, slow, settings=by_row))
        )
        client.start()
        eventually(lambda: any(data.glob("store/*/*/all_*")))  # it has written its first row
        assert not answers
        owner.send_signal(signal.SIGTERM)
        assert owner.wait(60) == 0
        client.join(10)
        assert answers[0][0]["ok"]
        assert not (tmp_path / "s").exists()
    with owner_of(data) as (_, address):
        assert ask_chdb(address, "SELECT count() FROM t", format="TSV")[1] == b"10\n"


def test_a_directory_that_is_taken_is_refused_with_a_reason(tmp_path: Path) -> None:
    data = tmp_path / "d"
    with owner_of(data):
        second = subprocess.run(
            [sys.executable, "-m", "embedded.chdb_owner", "--data", str(data), "--socket", "x"],
            env={**bare_environment(), "PYTHONPATH": str(TOP / "platform")},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert second.returncode == 1
    assert f"{data} cannot be opened" in second.stderr
