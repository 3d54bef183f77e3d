"""However the process that holds the stack ends, nothing is left running."""

import os
import signal
from pathlib import Path

import redis

from embedded.stack import ServiceState, Stack
from tests.io.embedded.world import (
    Holder,
    bare_environment,
    eventually,
    holding,
    is_running,
    parent_of,
    processes_in,
    query,
)

ALL = ["postgres", "valkey", "chdb"]


def test_nothing_is_left_after_the_holder_is_killed_and_all_was_kept(tmp_path: Path) -> None:
    with holding(tmp_path, ALL) as holder:
        told = holder.read()
        query(told["urls"]["DATABASE_URL"], "CREATE TABLE kept AS SELECT 1 AS n")
        holder.process.kill()
        holder.process.wait()
        # Started at once, while the guards of the killed one are still ending its services.
        with Stack(tmp_path, bare_environment(), services=["postgres"]) as stack:
            assert stack.status()["postgres"].state is ServiceState.RUNNING
            assert query(stack.urls()["DATABASE_URL"], "SELECT n FROM kept") == 1
        eventually(lambda: not any(is_running(pid) for pid in told["pids"].values()))
        eventually(lambda: not processes_in(tmp_path))


def test_services_end_even_when_holder_and_guards_are_killed(tmp_path: Path) -> None:
    with holding(tmp_path, ALL) as holder:
        pids = holder.read()["pids"].values()
        os.kill(holder.process.pid, signal.SIGSTOP)  # so that it starts nothing again
        for pid in pids:
            os.kill(parent_of(pid), signal.SIGKILL)
        eventually(lambda: not any(is_running(pid) for pid in pids))
        holder.process.kill()
    eventually(lambda: not processes_in(tmp_path))


def test_services_outlast_ctrl_c_until_the_holder_has_finished(tmp_path: Path) -> None:
    with holding(tmp_path, ["postgres", "valkey"]) as holder:
        told = holder.read()
        os.killpg(holder.process.pid, signal.SIGINT)  # as a terminal does
        assert holder.read() == {"answers_after_ctrl_c": True}
        assert holder.process.wait(60) == 0
        assert not any(is_running(pid) for pid in told["pids"].values())
        assert not processes_in(tmp_path)


def test_a_stop_leaves_no_process_and_no_claim(tmp_path: Path) -> None:
    stack = Stack(tmp_path, bare_environment(), services=["valkey", "chdb"])
    stack.start()
    pids = [status.pid for status in stack.status().values()]
    stack.stop()
    assert not any(is_running(pid) for pid in pids if pid)
    assert {status.state for status in stack.status().values()} == {ServiceState.STOPPED}
    assert not (tmp_path / "run" / "chdb.sock").exists()


def test_urls_stay_the_same_over_a_restart_of_the_holder(tmp_path: Path) -> None:
    with Stack(tmp_path, bare_environment(), services=["valkey"]) as stack:
        urls = stack.urls()
        with redis.Redis.from_url(urls["REDIS_URL"]) as client:
            client.set("kept", "yes")
    with Stack(tmp_path, bare_environment(), services=["valkey"]) as stack:
        assert stack.urls() == urls
        with redis.Redis.from_url(urls["REDIS_URL"]) as client:
            assert client.get("kept") == b"yes"


def test_of_two_that_start_together_one_starts_and_one_finds(tmp_path: Path) -> None:
    with holding(tmp_path, ["valkey"]) as one, holding(tmp_path, ["valkey"]) as two:
        told = [one.read(), two.read()]
        assert told[0]["urls"] == told[1]["urls"]
        assert sorted(each["states"]["valkey"] for each in told) == ["found", "running"]


def test_a_stack_can_be_started_after_the_one_that_was_found_ended(tmp_path: Path) -> None:
    holder = Holder(tmp_path, ["valkey"])
    try:
        holder.read()
        second = Stack(tmp_path, bare_environment(), services=["valkey"])
        second.start()
        assert second.status()["valkey"].state is ServiceState.FOUND
    finally:
        holder.close()
    second.start()
    try:
        assert second.status()["valkey"].state is ServiceState.RUNNING
    finally:
        second.stop()
