"""The stack as its users see it: URLs that work, services that come back."""

import os
import signal
import socket
import stat
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from embedded.errors import StartError
from embedded.procs import ProcessId
from embedded.rundir import RunDir, ServiceRecord
from embedded.stack import ServiceState, Stack
from tests.io.embedded.conftest import Running
from tests.io.embedded.world import (
    bare_environment,
    eventually,
    holding,
    is_running,
    parent_of,
    query,
)
from tests.support.stack import ask_chdb

NO_RETRY = Retry(NoBackoff(), 0)
REPLACED = {
    "DATABASE_URL": "postgresql://192.0.2.1/x",
    "REDIS_URL": "redis://192.0.2.1/0",
    "BROKER_URL": "amqp://192.0.2.1",
    "CLICKHOUSE_URL": "clickhouse://192.0.2.1/x",
    "SPOOL_URL": "mongodb://192.0.2.1/x",
}


def test_all_five_urls_come_back(running: Running) -> None:
    assert set(running.urls) == set(REPLACED)
    spool = urlsplit(running.urls["SPOOL_URL"])
    assert spool.scheme == "file"
    assert "%20" in spool.path


def test_postgresql_answers_in_utf8_and_keeps_what_it_commits(running: Running) -> None:
    url = running.urls["DATABASE_URL"]
    assert query(url, "SHOW server_encoding") == "UTF8"
    assert query(url, "SELECT datcollate FROM pg_database WHERE datname = 'postfleet'") == "C.UTF-8"
    assert [query(url, f"SHOW {name}") for name in ("fsync", "synchronous_commit")] == ["on", "on"]
    assert query(url, "SHOW unix_socket_directories") == ""


def test_valkey_answers_on_a_cache_and_a_broker_database(running: Running) -> None:
    with (
        redis.Redis.from_url(running.urls["REDIS_URL"]) as cache,
        redis.Redis.from_url(running.urls["BROKER_URL"]) as broker,
    ):
        cache.set("where", "cache")
        assert broker.get("where") is None
        assert cache.config_get("appendonly") == {"appendonly": "yes"}
        assert cache.config_get("appendfsync") == {"appendfsync": "everysec"}


def test_chdb_answers(running: Running) -> None:
    header, body = ask_chdb(running.urls["CLICKHOUSE_URL"], "SELECT 6 * 7 AS n")
    assert (header["ok"], header["rows"], body) == (True, 1, b'{"n":42}\n')


def test_nobody_is_let_in_without_the_password(running: Running) -> None:
    postgres, valkey = urlsplit(running.urls["DATABASE_URL"]), urlsplit(running.urls["REDIS_URL"])
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(
            host="127.0.0.1", port=postgres.port, user=postgres.username, password="guess"
        )
    with (
        redis.Redis(host="127.0.0.1", port=valkey.port or 0, retry=NO_RETRY) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


def test_secrets_and_the_socket_are_for_their_owner_alone(running: Running) -> None:
    private = [*(running.var / "secret").iterdir(), running.var / "valkey" / "valkey.conf"]
    private += [running.var / "run" / "chdb.sock"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    assert len(private) == 4


def test_no_password_shows_in_the_list_of_processes(running: Running) -> None:
    passwords = [
        (running.var / "secret" / name).read_text().strip().encode()
        for name in ("postgres", "valkey")
    ]
    for name in ("postgres", "valkey", "chdb"):
        command = Path(f"/proc/{running.pid(name)}/cmdline").read_bytes()
        assert not any(password in command for password in passwords)


def test_ports_lie_below_the_ephemeral_range_and_on_loopback(running: Running) -> None:
    for name in ("DATABASE_URL", "REDIS_URL"):
        url = urlsplit(running.urls[name])
        assert url.hostname == "127.0.0.1"
        assert 1024 < (url.port or 0) < 32768


def test_a_killed_valkey_comes_back_with_its_data_and_a_line_says_so(running: Running) -> None:
    with redis.Redis.from_url(running.urls["REDIS_URL"]) as client:
        client.set("kept", "yes")
        client.execute_command("WAITAOF", 1, 0, 5000)
        old = running.pid("valkey")
        assert old is not None
        os.kill(old, signal.SIGKILL)
        assert "valkey was ended by signal 9" in running.lines.get(timeout=60)
        assert running.lines.get(timeout=60) == "valkey is running again"
        assert client.get("kept") == b"yes"
    assert running.pid("valkey") != old


def test_a_killed_postgresql_comes_back_with_what_was_committed(running: Running) -> None:
    url = running.urls["DATABASE_URL"]
    query(url, "CREATE TABLE kept AS SELECT 1 AS n")
    old = running.pid("postgres")
    assert old is not None
    os.kill(old, signal.SIGKILL)
    assert "postgres was ended by signal 9" in running.lines.get(timeout=60)
    assert running.lines.get(timeout=60) == "postgres is running again"
    assert query(url, "SELECT n FROM kept") == 1


def test_a_service_whose_guard_is_killed_does_not_outlive_it_and_comes_back(
    running: Running,
) -> None:
    old = running.pid("chdb")
    assert old is not None
    os.kill(parent_of(old), signal.SIGKILL)
    assert "chdb lost its guard" in running.lines.get(timeout=60)
    assert running.lines.get(timeout=60) == "chdb is running again"
    assert not is_running(old)
    assert ask_chdb(running.urls["CLICKHOUSE_URL"], "SELECT 1")[0]["ok"]


def test_a_second_process_finds_the_stack_and_leaves_it_running(running: Running) -> None:
    with holding(running.var, ["postgres", "valkey", "chdb"]) as holder:
        found = holder.read()
    assert found["urls"] == running.urls
    assert set(found["states"].values()) == {ServiceState.FOUND.value}
    assert found["pids"] == {name: running.pid(name) for name in found["pids"]}
    assert query(running.urls["DATABASE_URL"], "SELECT 1") == 1


def test_a_second_stack_in_another_directory_runs_beside_it(
    running: Running, tmp_path: Path
) -> None:
    services = ["postgres", "valkey", "chdb"]
    environ = bare_environment()
    with Stack(tmp_path / "var", environ, services=services, durable=False) as other:
        assert not set(other.urls().values()) & set(running.urls.values())
        query(other.urls()["DATABASE_URL"], "CREATE TABLE only_here ()")
        assert query(running.urls["DATABASE_URL"], "SELECT to_regclass('only_here')") is None
        ask_chdb(other.urls()["CLICKHOUSE_URL"], "CREATE DATABASE only_here")
        _, names = ask_chdb(running.urls["CLICKHOUSE_URL"], "SHOW DATABASES", format="TSV")
        assert b"only_here" not in names


def test_what_the_environment_replaces_is_not_started(tmp_path: Path) -> None:
    with Stack(tmp_path, {**bare_environment(), **REPLACED}) as stack:
        assert stack.urls() == REPLACED
        assert {s.state for s in stack.status().values()} == {ServiceState.REPLACED}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "run", "secret"]


def test_valkey_is_started_for_the_broker_alone(tmp_path: Path) -> None:
    environ = {**bare_environment(), **REPLACED, "BROKER_URL": ""}
    with Stack(tmp_path, environ) as stack:
        assert stack.urls()["REDIS_URL"] == REPLACED["REDIS_URL"]
        with redis.Redis.from_url(stack.urls()["BROKER_URL"]) as broker:
            assert broker.ping()


def test_an_unknown_service_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such service: mysql"):
        Stack(tmp_path, {}, services=["mysql"])


def test_a_service_moves_when_another_program_took_its_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        RunDir(tmp_path).create()
        address = {"port": taken.getsockname()[1]}
        RunDir(tmp_path).write_record("valkey", ServiceRecord(None, None, address))
        with Stack(tmp_path, bare_environment(), services=["valkey"]) as stack:
            assert urlsplit(stack.urls()["REDIS_URL"]).port != address["port"]


def test_records_and_pid_files_of_a_crash_are_not_believed(tmp_path: Path) -> None:
    services = ["postgres", "valkey"]
    with Stack(tmp_path, bare_environment(), services=services, durable=False) as stack:
        port = urlsplit(stack.urls()["DATABASE_URL"]).port
    # After the crash another process has the pid: this one, begun at another time.
    recycled = ProcessId(os.getpid(), 1, "another boot")
    for name in services:
        record = ServiceRecord(recycled, recycled, {"port": port})
        RunDir(tmp_path).write_record(name, record)
    (tmp_path / "postgres" / "postmaster.pid").write_text(f"{os.getpid()}\n/nowhere\n")
    (tmp_path / "run" / "valkey.json").write_text("{ cut off")
    with Stack(tmp_path, bare_environment(), services=services, durable=False) as stack:
        assert query(stack.urls()["DATABASE_URL"], "SELECT 1") == 1
        assert {s.state for s in stack.status().values()} == {ServiceState.RUNNING}


def test_a_service_that_cannot_start_says_so_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir(mode=0o700)
    (tmp_path / "postgres" / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(StartError, match="postgres did not start: it ended with exit code") as told:
        Stack(tmp_path, bare_environment(), services=["postgres", "valkey"]).start()
    assert "could not access the server configuration file" in told.value.log_tail
    valkey = RunDir(tmp_path).read_record("valkey").process
    assert valkey is None or not valkey.is_alive()


def test_a_half_made_cluster_never_takes_the_place_of_a_whole_one(tmp_path: Path) -> None:
    leftover = tmp_path / ".postgres.0badcafe"
    leftover.mkdir()
    (leftover / "PG_VERSION").write_text("16\n")
    with Stack(tmp_path, bare_environment(), services=["postgres"], durable=False) as stack:
        assert query(stack.urls()["DATABASE_URL"], "SELECT 1") == 1
    assert not leftover.exists()
    assert not list(tmp_path.glob(".postgres.*"))


def test_a_path_longer_than_a_socket_address_works(tmp_path: Path) -> None:
    var = tmp_path / ("long" * 20) / ("path" * 20)
    with Stack(var, bare_environment(), services=["chdb"]) as stack:
        url = stack.urls()["CLICKHOUSE_URL"]
        assert ask_chdb(url, "SELECT 1")[0]["ok"]
        home = Path(urlsplit(url).path).parent
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
    eventually(lambda: not home.exists())
