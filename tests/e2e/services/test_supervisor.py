"""`manage.py fleet up`: one command brings a node up on services of its own, and ends it whole."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from control.environment import TOP
from control.management.fleet import probes
from mailio.broker import queues_of
from mailio.ledger.leader import Leadership
from mailio.ledger.pool import Session
from tests.support.fleet import (
    Api,
    descendants,
    environment_without_ours,
    eventually,
    still_running,
    working_in,
)
from tests.support.ports import free_port
from tests.support.services import ClickhouseServer, PostgresServer, RabbitMq, RedisServer

READY_WITHIN_S = 180.0
# Flower and jobs have tests of their own, and the fleet of this package.
PROCESSES = "lab,web,priority,delivery,event,upkeep,beat"
GONE_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Node:
    """A node whose supervisor runs."""

    process: "subprocess.Popen[bytes]"
    env_file: Path
    var_dir: Path
    log: Path
    broker_url: str
    web_port: int

    def fleet(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run another `manage.py fleet …` for it."""
        return fleet(*arguments, "--env-file", str(self.env_file), "--var", str(self.var_dir))


def fleet(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `manage.py fleet …` to its end."""
    return subprocess.run(
        [sys.executable, "manage.py", "fleet", *arguments],
        cwd=TOP,
        env=environment_without_ours(os.environ),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def settings_of(
    directory: Path, broker_url: str, redis_url: str, database_url: str, clickhouse_url: str
) -> str:
    """Return the file an operator writes."""
    return f"""\
# everything a node is told
DATABASE_URL={database_url}
BROKER_URL="{broker_url}"
REDIS_URL={redis_url}
CLICKHOUSE_URL={clickhouse_url}
SPOOL_URL=file://{directory}/spool
SECRET_KEYS=1:{base64.b64encode(bytes(range(32))).decode()}
NODE=node7
MODE=lab
"""


@pytest.fixture(scope="module")
def node(
    rabbitmq: RabbitMq,
    redis_server: RedisServer,
    postgres_server: PostgresServer,
    clickhouse_server: ClickhouseServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Node]:
    """One node in mode lab, started by the command of the manual."""
    directory = tmp_path_factory.mktemp("a node of mine")
    broker_url, database_url = rabbitmq.virtual_host(), postgres_server.database()
    env_file, log = directory / "env", directory / "said"
    text = settings_of(
        Path(quote(str(directory))),
        broker_url,
        redis_server.database(),
        database_url,
        clickhouse_server.database(),
    )
    web_port = free_port()
    listens = f"WEB_LISTEN=127.0.0.1:{web_port}\nFLOWER_LISTEN=127.0.0.1:{free_port()}\n"
    env_file.write_text(text + listens)
    var_dir = directory / "var"
    place = ["--env-file", str(env_file), "--var", str(var_dir)]
    refused = fleet("up", *place)
    assert refused.returncode == 1
    assert "the database is empty" in refused.stderr
    chosen = ["--processes", PROCESSES]
    # Another node prepares the same database, and is given its turn.
    other = Session(database_url, role="migrate")
    assert Leadership(other).take("migrate")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "fleet", "up", "--migrate", *chosen, *place],
            cwd=TOP,
            env=environment_without_ours(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        eventually(lambda: "another node prepares" in log.read_text(), what=log.read_text)
        other.close()

        def is_up() -> bool:
            assert process.poll() is None, log.read_text()
            return "logs in" in log.read_text()

        eventually(is_up, within_s=READY_WITHIN_S, what=log.read_text)
        yield Node(process, env_file, var_dir, log, broker_url, web_port)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_it_says_what_answered_and_no_password(node: Node, rabbitmq: RabbitMq) -> None:
    said = node.log.read_text()
    for word in ("PostgreSQL 15", "RabbitMQ 3", "Redis 7", "ClickHouse"):
        assert word in said
    assert rabbitmq.password not in said
    assert "password: " in said  # the first operator's, once


def test_status_shows_every_process_and_a_synced_node(node: Node) -> None:
    last: list[str] = []

    def is_good() -> bool:
        done = node.fleet("status")
        last[:] = [done.stdout + done.stderr]
        return done.returncode == 0

    eventually(is_good, within_s=60, what=lambda: last)
    assert "node node7, mode lab" in last[0]
    assert "node synced" in last[0]
    for name in ("lab", "web", "priority", "delivery1", "event", "upkeep", "beat"):
        assert re.search(rf"^{name} +running +\d+ ", last[0], re.MULTILINE), last[0]


def test_a_message_goes_through_it(node: Node) -> None:
    token = (node.var_dir / "api-token").read_text().strip()
    api = Api(f"http://127.0.0.1:{node.web_port}/api/v2", token)
    receipt = api.accept({"from": "news@sender.test", "to": ["ann@accepta.test"], "text": "x"})
    message_id = str(receipt["message_id"])
    eventually(lambda: api.recipient(message_id)["state"] == "delivered")


def test_an_operator_stops_a_process_and_starts_it_again(node: Node) -> None:
    assert node.fleet("stop", "beat").returncode == 0
    stopped = node.fleet("status")
    assert stopped.returncode == 3
    assert re.search(r"^beat +stopped ", stopped.stdout, re.MULTILINE)
    assert node.fleet("start", "beat").returncode == 0


def test_a_second_one_is_not_started_beside_it(node: Node) -> None:
    second = node.fleet("up")
    assert second.returncode == 1
    assert "a fleet runs in" in second.stderr


def test_the_definitions_give_a_broker_what_fleet_and_flower_need(rabbitmq: RabbitMq) -> None:
    text = (TOP / "deploy" / "rabbitmq" / "definitions.json").read_text()
    text = text.replace("CHANGE-ME-TOO", "watching").replace("CHANGE-ME", "ringing")
    # Else it would be the test's own user whose password it sets.
    text = text.replace('"postfleet", "password"', '"fleet-7", "password"')
    text = text.replace('"user": "postfleet"', '"user": "fleet-7"')
    rabbitmq.ask("POST", "/definitions", json.loads(text))
    place = f"127.0.0.1:{rabbitmq.port}/postfleet"
    assert "virtual host postfleet" in probes.ask_broker(f"amqp://fleet-7:ringing@{place}")
    api = f"127.0.0.1:{rabbitmq.management_port}/api/"
    assert "answers" in probes.ask_management(f"http://postfleet-flower:watching@{api}")
    with pytest.raises(probes.Wrong, match="user or password is refused"):
        probes.ask_management(f"http://fleet-7:ringing@{api}")
    with pytest.raises(probes.Wrong, match="refused"):
        probes.ask_broker(f"amqp://postfleet-flower:watching@{place}")


def test_sigterm_ends_everything(node: Node, rabbitmq: RabbitMq) -> None:
    queues = rabbitmq.queues(node.broker_url)
    assert set(queues_of("", "node7")) <= set(queues)
    children = descendants(node.process.pid)
    assert len(children) > 10
    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(GONE_WITHIN_S) == 0, node.log.read_text()
    eventually(lambda: not still_running(children), within_s=GONE_WITHIN_S)
    eventually(lambda: not working_in(node.var_dir), within_s=GONE_WITHIN_S)
    assert node.log.read_text().endswith("stopped\n")
    assert "no fleet is up" in node.fleet("status").stderr
