"""Bells over a real Valkey: which queue each rings on, what travels, what a worker makes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Any

import pytest
from celery import Celery

from mailcore.bells import ApplyBell, DrainBell, Path, RouteBell, UpkeepBell
from mailcore.outcome import MailClass
from mailcore.ports import StoreUnavailable
from mailio import settings
from mailio.broker import (
    CONSUMERS,
    TOPOLOGY,
    Bell,
    CeleryBells,
    beat_schedule,
    celery_config,
    queue_of,
    queues_of,
)
from tests.support.stack import redis_url

NODE = "n1"
PATHS = (Path(7, "mx.example.com"),)
WORKER = """
import sys
from celery import Celery
from mailio import settings
from mailio.broker import celery_config

app = Celery("bells", set_as_current=False)
app.conf.update(celery_config(settings.load(), kind="delivery"))

@app.task(name="deliver.drain")
def drain(payload):
    print("heard", payload, flush=True)

app.worker_main(["worker", "-P", "threads", "-c", "1", "-l", "ERROR", "--without-gossip",
                 "--without-mingle"])
"""


def environ(broker_url: str) -> dict[str, str]:
    return {
        "NODE": NODE,
        "BROKER_URL": broker_url,
        "DATABASE_URL": "postgresql://127.0.0.1:1/none",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "CLICKHOUSE_URL": "chdb+unix:///none",
        "SPOOL_URL": "file:///none",
        "SECRET_KEYS": "1:" + "A" * 43 + "=",
    }


def application(broker_url: str) -> Celery:
    app = Celery("bells", set_as_current=False)
    app.conf.update(celery_config(settings.load(environ(broker_url)), kind="event"))
    return app


@pytest.fixture(scope="module")
def url() -> str:
    return redis_url()


@pytest.fixture
def app(url: str) -> Iterator[Celery]:
    made = application(url)
    yield made
    made.close()


@pytest.fixture
def bells(app: Celery) -> Iterator[CeleryBells]:
    made = CeleryBells(app)
    yield made
    made.close()


def heard(app: Celery, queue: str) -> list[tuple[dict[str, Any], list[Any]]]:
    """Take everything from a queue: the headers and arguments of each message."""
    found = []
    with app.connection_for_read() as connection:
        channel: Any = connection.channel()
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            read = channel.message_to_python(message)
            found.append((dict(read.headers), list(read.payload[0])))
    return found


# ── topology ──────────────────────────────────────────────────────────────────────────────────


def test_every_task_has_one_row() -> None:
    tasks = [row.task for row in TOPOLOGY]
    assert len(tasks) == len(set(tasks))


@pytest.mark.parametrize(
    ("task", "bell", "queue"),
    [
        ("deliver.drain", DrainBell(NODE, MailClass.PRIORITY, PATHS), "priority.n1"),
        ("deliver.drain", DrainBell(NODE, MailClass.MAIN, PATHS), "main.n1"),
        ("deliver.drain", DrainBell(NODE, MailClass.MAIN, PATHS, is_retry=True), "retry.n1"),
        ("deliver.drain", DrainBell(NODE, MailClass.PRIORITY, PATHS, True), "priority.n1"),
        ("route.resolve", RouteBell(), "main"),
        ("events.apply", ApplyBell("statistics"), "event"),
        ("upkeep.expire", UpkeepBell(), "upkeep"),
        ("upkeep.sweep", UpkeepBell("n2"), "upkeep.n2"),
        ("inbound.poll", UpkeepBell("n1"), "upkeep.n1"),
    ],
)
def test_a_bell_rings_on_the_queue_of_its_class_and_node(task: str, bell: Bell, queue: str) -> None:
    assert queue_of(task, bell) == queue


@pytest.mark.parametrize(
    ("task", "bell"), [("deliver.all", RouteBell()), ("deliver.drain", RouteBell())]
)
def test_a_task_without_a_row_or_with_anothers_bell_is_refused(task: str, bell: Bell) -> None:
    with pytest.raises(LookupError, match=task):
        queue_of(task, bell)


def test_each_kind_of_process_reads_its_own_queues() -> None:
    assert queues_of("priority", NODE) == ("priority.n1",)
    assert queues_of("delivery", NODE) == ("main.n1", "retry.n1", "main")
    assert queues_of("event", NODE) == ("event",)
    assert queues_of("upkeep", NODE) == ("upkeep.n1", "upkeep")
    assert queues_of("control", NODE) == ("control",)
    assert len(queues_of("", NODE)) == 8
    with pytest.raises(LookupError, match="gardening"):
        queues_of("gardening", NODE)


def test_every_queue_a_bell_may_ring_on_is_read_by_exactly_one_kind() -> None:
    kinds = ("priority", "delivery", "event", "upkeep", "control")
    for name in queues_of("", NODE):
        assert [kind for kind in kinds if name in queues_of(kind, NODE)] != []
    read = [name for kind in kinds for name in queues_of(kind, NODE)]
    assert len(read) == len(set(read))


def test_beat_rings_for_chores_and_consumers_and_each_ring_expires_with_its_interval() -> None:
    schedule = beat_schedule(NODE)
    assert {entry["task"] for entry in schedule.values()} == {
        row.task for row in TOPOLOGY if row.every_s
    }
    for entry in schedule.values():
        assert 0 < entry["options"]["expires"] <= max(entry["schedule"], 1.0)
        assert entry["options"]["queue"] in queues_of("", NODE)
        assert entry["options"]["argsrepr"] in (NODE, "any node", "unrouted lanes", *CONSUMERS)
    assert schedule["upkeep.sweep"]["options"]["queue"] == "upkeep.n1"
    assert schedule["upkeep.check"]["options"]["queue"] == "upkeep"


def test_rabbitmq_is_asked_to_confirm_and_redis_to_give_back_soon() -> None:
    amqp = celery_config(settings.load(environ("amqp://127.0.0.1:5672//")))
    assert amqp["broker_transport_options"] == {"confirm_publish": True}
    redis = celery_config(settings.load(environ("redis://127.0.0.1:6379/1")))
    assert redis["broker_transport_options"]["visibility_timeout"] == 60


# ── ringing ───────────────────────────────────────────────────────────────────────────────────


async def test_a_bell_travels_as_one_string_by_task_name(app: Celery, bells: CeleryBells) -> None:
    bell = DrainBell(NODE, MailClass.MAIN, PATHS)
    await bells.drain(bell)
    [(headers, args)] = heard(app, "main.n1")
    assert headers["task"] == "deliver.drain"
    assert headers["ignore_result"] is True
    assert headers["argsrepr"] == bell.words
    assert args == [bell.to_json()]
    assert DrainBell.from_json(args[0]) == bell


async def test_each_bell_has_an_end_so_that_none_pile_up(app: Celery, bells: CeleryBells) -> None:
    await bells.route(RouteBell())
    [(headers, _)] = heard(app, "main")
    assert headers["expires"]
    assert headers["eta"] is None


async def test_every_kind_of_bell_is_heard_on_its_queue(app: Celery, bells: CeleryBells) -> None:
    await bells.apply(ApplyBell("statistics"))
    await bells.upkeep("upkeep.reap", UpkeepBell("n1"))
    await bells.upkeep("upkeep.expire", UpkeepBell())
    assert [headers["task"] for headers, _ in heard(app, "event")] == ["events.apply"]
    assert [headers["task"] for headers, _ in heard(app, "upkeep.n1")] == ["upkeep.reap"]
    assert [headers["task"] for headers, _ in heard(app, "upkeep")] == ["upkeep.expire"]


@pytest.mark.parametrize("broker", ["redis://127.0.0.1:1/0", "amqp://guest:guest@127.0.0.1:1//"])
async def test_a_broker_that_is_away_is_named(broker: str) -> None:
    app = application(broker)
    bells = CeleryBells(app)
    with pytest.raises(StoreUnavailable, match="broker: ") as caught:
        await bells.route(RouteBell())
    assert caught.value.store == "broker"
    bells.close()
    app.close()


async def test_a_worker_of_the_kind_hears_the_bell_of_its_node(
    bells: CeleryBells, url: str, tmp_path: FilePath
) -> None:
    bell = DrainBell(NODE, MailClass.MAIN, PATHS, is_retry=True)
    await bells.drain(bell)
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    log = tmp_path / "worker.log"
    path = os.pathsep.join(("platform", *sys.path))
    with log.open("wb") as out:
        worker = subprocess.Popen(
            [sys.executable, str(script)],
            env={**os.environ, **environ(url), "PYTHONPATH": path},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 60
        while "heard" not in log.read_text() and time.monotonic() < deadline:
            assert worker.poll() is None, log.read_text()
            await_a_little()
    finally:
        worker.terminate()
        worker.wait(timeout=60)
    [line] = [line for line in log.read_text().splitlines() if line.startswith("heard ")]
    assert json.loads(line.removeprefix("heard ")) == json.loads(bell.to_json())


def await_a_little() -> None:
    subprocess.run(["sleep", "0.1"], check=True)
