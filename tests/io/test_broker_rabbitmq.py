"""Bells over a real RabbitMQ: what is declared, what a confirm is worth, and what becomes of
publisher and worker when queues, connections or the whole node go away."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path as FilePath
from typing import Any

import pytest
from celery import Celery

from mailcore.bells import ApplyBell, DrainBell, Path, RouteBell, UpkeepBell
from mailcore.outcome import MailClass
from mailcore.ports import StoreUnavailable
from mailio import settings
from mailio.broker import BELL_LIFETIME_S, MOST_BELLS, CeleryBells, celery_config, queues_of
from tests.io.test_broker import NODE, WORKER, environ
from tests.support.fleet import eventually
from tests.support.services import RabbitMq

TYPES = ("classic", "quorum")
Start = Callable[[str], AbstractContextManager["Worker"]]


def bell(number: int, mail_class: MailClass = MailClass.MAIN) -> DrainBell:
    return DrainBell(NODE, mail_class, (Path(number, "mx.example.com"),))


class Worker:
    """A Celery worker on the threads pool, and what it has heard."""

    def __init__(self, log: FilePath, process: subprocess.Popen[bytes]) -> None:
        self._log = log
        self.process = process

    def text(self) -> str:
        return self._log.read_text(errors="replace")

    def hears(self, wanted: DrainBell) -> None:
        """Wait until it has heard a bell."""
        line = f"heard {wanted.to_json()}"

        def heard() -> bool:
            assert self.process.poll() is None, self.text()
            return line in self.text()

        eventually(heard, within_s=60, what=self.text)


@pytest.fixture
def url(rabbitmq: RabbitMq) -> str:
    return rabbitmq.virtual_host()


def application(url: str, queue_type: str = "classic", kind: str = "event") -> Celery:
    env = environ(url) | {"BROKER_QUEUE_TYPE": queue_type}
    app = Celery("bells", set_as_current=False)
    app.conf.update(celery_config(settings.load(env), kind=kind))
    return app


@contextmanager
def ringing(url: str, queue_type: str = "classic") -> Iterator[CeleryBells]:
    app = application(url, queue_type)
    made = CeleryBells(app)
    yield made
    made.close()
    app.close()


@pytest.fixture
def bells(url: str) -> Iterator[CeleryBells]:
    with ringing(url) as made:
        yield made


@pytest.fixture
def worker(url: str, tmp_path: FilePath) -> Start:
    @contextmanager
    def start(queue_type: str) -> Iterator[Worker]:
        script, log = tmp_path / "worker.py", tmp_path / "worker.log"
        script.write_text(WORKER)
        env = environ(url) | {"BROKER_QUEUE_TYPE": queue_type}
        path = os.pathsep.join(("platform", *sys.path))
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, str(script)],
                env={**os.environ, **env, "PYTHONPATH": path},
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        try:
            yield Worker(log, process)
        finally:
            process.kill()
            process.wait()

    return start


def waiting(url: str, name: str) -> list[dict[str, Any]]:
    """Take every bell from a queue; return the properties and headers of each."""
    app = application(url)
    found = []
    with app.connection_for_read() as connection:
        channel: Any = connection.channel()
        while (message := channel.basic_get(name, no_ack=True)) is not None:
            read = channel.message_to_python(message)
            found.append({**read.properties, **read.headers})
    app.close()
    return found


# ── what is declared ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("queue_type", TYPES)
def test_every_queue_is_durable_and_bounded_in_time_and_length(
    rabbitmq: RabbitMq, url: str, queue_type: str
) -> None:
    for _ in range(2):  # every process declares them anew
        app = application(url, queue_type, kind="")
        with app.connection_for_write() as connection:
            for queue in app.conf.task_queues:
                queue(connection.default_channel).declare()
        app.close()
    found = rabbitmq.queues(url)
    assert set(found) == set(queues_of("", NODE))
    for queue in found.values():
        assert queue["durable"] is True
        assert queue["type"] == queue_type
        assert queue["arguments"] == {
            "x-message-ttl": BELL_LIFETIME_S * 1000,
            "x-max-length": MOST_BELLS,
            "x-queue-type": queue_type,
        }


def test_another_type_than_the_two_is_refused_by_name() -> None:
    with pytest.raises(settings.SettingsError, match="BROKER_QUEUE_TYPE: classic or quorum"):
        application("amqp://127.0.0.1:1//", "stream")


# ── ringing ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("queue_type", TYPES)
async def test_a_confirmed_bell_is_on_the_queue_of_its_class_and_node(
    url: str, queue_type: str
) -> None:
    with ringing(url, queue_type) as bells:
        await bells.drain(bell(1))
        await bells.drain(bell(2, MailClass.PRIORITY))
        await bells.route(RouteBell())
        await bells.apply(ApplyBell("statistics"))
        await bells.upkeep("upkeep.reap", UpkeepBell(NODE))
    tasks = {
        name: [one["task"] for one in waiting(url, name)]
        for name in (f"main.{NODE}", f"priority.{NODE}", "main", "event", f"upkeep.{NODE}")
    }
    assert tasks == {
        f"main.{NODE}": ["deliver.drain"],
        f"priority.{NODE}": ["deliver.drain"],
        "main": ["route.resolve"],
        "event": ["events.apply"],
        f"upkeep.{NODE}": ["upkeep.reap"],
    }


async def test_the_broker_itself_is_told_when_a_bell_ends(url: str, bells: CeleryBells) -> None:
    await bells.drain(bell(1))
    [found] = waiting(url, f"main.{NODE}")
    assert found["expiration"] == str(BELL_LIFETIME_S * 1000)
    assert found["delivery_mode"] == 2


async def test_purged_bells_are_gone_and_the_next_one_rings(
    rabbitmq: RabbitMq, url: str, bells: CeleryBells
) -> None:
    for number in range(5):
        await bells.drain(bell(number))
    rabbitmq.purge(url)
    assert waiting(url, f"main.{NODE}") == []
    await bells.drain(bell(7))
    assert len(waiting(url, f"main.{NODE}")) == 1


async def test_a_bell_for_a_queue_somebody_deleted_declares_it_again(
    rabbitmq: RabbitMq, url: str, bells: CeleryBells
) -> None:
    await bells.drain(bell(1))
    for number in range(2):  # twice, so that no late confirm of the first stands for another
        rabbitmq.delete_queue(url, f"main.{NODE}")
        await bells.drain(bell(number))
        assert len(waiting(url, f"main.{NODE}")) == 1


async def test_a_publisher_whose_connection_was_cut_rings_again(
    rabbitmq: RabbitMq, url: str, bells: CeleryBells
) -> None:
    await bells.drain(bell(1))
    eventually(lambda: rabbitmq.close_connections() > 0)
    await bells.drain(bell(2))
    assert len(waiting(url, f"main.{NODE}")) == 2


# ── hearing ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("queue_type", TYPES)
async def test_a_worker_hears_the_bells_of_its_kind(
    url: str, worker: Start, queue_type: str
) -> None:
    with worker(queue_type) as running, ringing(url, queue_type) as bells:
        await bells.drain(bell(1))
        running.hears(bell(1))


async def test_a_worker_whose_queue_was_deleted_declares_it_again_and_hears(
    rabbitmq: RabbitMq, url: str, bells: CeleryBells, worker: Start
) -> None:
    with worker("classic") as running:
        # The second is heard by a worker that is through with its start, in the midst of which
        # Celery overlooks a cancelled consumer.
        for number in (1, 2):
            await bells.drain(bell(number))
            running.hears(bell(number))
        rabbitmq.delete_queue(url, f"main.{NODE}")
        await bells.drain(bell(3))
        running.hears(bell(3))


async def test_publisher_worker_and_bells_outlive_a_killed_node(
    rabbitmq: RabbitMq, url: str, bells: CeleryBells, worker: Start
) -> None:
    with worker("classic") as running:
        await bells.drain(bell(1))
        running.hears(bell(1))
        await bells.drain(bell(5, MailClass.PRIORITY))  # nobody reads that queue here
        rabbitmq.kill()
        with pytest.raises(StoreUnavailable, match="broker: ") as caught:
            await bells.drain(bell(2))
        assert caught.value.store == "broker"
        rabbitmq.start()
        await bells.drain(bell(3))
        running.hears(bell(3))
        # That one may have waited in the queue; this one finds a consumer that is back for good.
        await bells.drain(bell(4))
        running.hears(bell(4))
    assert [one["task"] for one in waiting(url, f"priority.{NODE}")] == ["deliver.drain"]
