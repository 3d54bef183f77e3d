"""Two beats side by side ring each chore once, and one takes over when the other is gone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from celery import Celery
from celery.utils.time import maybe_make_aware

from mailio import settings
from mailio.broker import beat_schedule, celery_config, queues_of
from tests.support.fleet import eventually
from tests.support.stack import postgres_url, redis_url
from workers.beat import LeadingScheduler

NODES = ("n1", "n2")


class Beats:
    """Beats of one fleet."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.database_url, self.broker_url = postgres_url(), redis_url()
        self._directory = directory
        self._patch = patch
        self._started: list[LeadingScheduler] = []

    def start(self, node: str) -> LeadingScheduler:
        """Start one on a node, with every entry due at once."""
        environ = {
            "NODE": node,
            "DATABASE_URL": self.database_url,
            "BROKER_URL": self.broker_url,
            "REDIS_URL": self.broker_url,
            "CLICKHOUSE_URL": "chdb+unix:///none",
            "SPOOL_URL": "file:///none",
            "SECRET_KEYS": "1:" + "A" * 43 + "=",
        }
        for name, value in environ.items():
            self._patch.setenv(name, value)
        app = Celery("bells", set_as_current=False)
        app.conf.update(celery_config(settings.load(environ)))
        app.conf.beat_schedule = beat_schedule(node)
        file = self._directory / f"beat{len(self._started)}"
        made = LeadingScheduler(app, schedule_filename=str(file))
        self._started.append(made)
        return made

    def heard(self) -> list[str]:
        """Take every bell that was rung, by its task and queue."""
        app = self._started[0].app
        found = []
        with app.connection_for_read() as connection:
            channel: Any = connection.default_channel
            for queue in {name for node in NODES for name in queues_of("", node)}:
                while (message := channel.basic_get(queue, no_ack=True)) is not None:
                    found.append(f"{message.headers['task']} {queue}")
        return sorted(found)

    def stop(self) -> None:
        """Stop all."""
        for one in self._started:
            one.close()
            one.app.close()


@pytest.fixture
def beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Beats]:
    made = Beats(tmp_path, monkeypatch)
    yield made
    made.stop()


def turn(*schedulers: LeadingScheduler) -> None:
    """Let every entry of each be due once."""
    for scheduler in schedulers:
        for entry in scheduler.schedule.values():
            long_ago = maybe_make_aware(entry.default_now()) - timedelta(days=1)
            entry.last_run_at = long_ago
        scheduler.populate_heap()
        for _ in scheduler.schedule:
            scheduler.tick()


def wanted(*nodes: str) -> list[str]:
    """Every chore once: those of a node for each node."""
    entries = [entry for node in nodes for entry in beat_schedule(node).items()]
    names = {
        (name, entry["options"]["queue"]): f"{entry['task']} {entry['options']['queue']}"
        for name, entry in entries
    }
    return sorted(names.values())


def test_two_beats_of_a_node_ring_every_chore_once(beats: Beats) -> None:
    turn(beats.start("n1"), beats.start("n1"))
    assert beats.heard() == wanted("n1")


def test_beats_of_two_nodes_ring_for_each_node_and_once_for_the_fleet(beats: Beats) -> None:
    turn(beats.start("n1"), beats.start("n2"))
    heard = beats.heard()
    assert heard == wanted("n1", "n2")
    assert {"upkeep.reap upkeep.n1", "upkeep.reap upkeep.n2"} <= set(heard)
    assert heard.count("control.jobs control") == 1


def test_another_beat_takes_over_when_the_first_is_gone(beats: Beats) -> None:
    first, second = beats.start("n1"), beats.start("n1")
    turn(first, second)
    beats.heard()
    first.close()
    until_it_leads(second)
    turn(second)
    assert beats.heard() == wanted("n1")


def test_a_beat_that_lost_its_connection_does_not_ring_beside_its_successor(beats: Beats) -> None:
    first, second = beats.start("n1"), beats.start("n1")
    turn(first)
    beats.heard()
    assert first.leads("upkeep")
    end_connections_of_beat(beats.database_url)
    until_it_leads(second)
    assert not first.leads("upkeep")


def test_without_postgresql_a_beat_does_not_ring_and_goes_on(beats: Beats) -> None:
    beats.database_url = "postgresql://127.0.0.1:1/none"
    alone = beats.start("n1")
    turn(alone)
    assert beats.heard() == []


def until_it_leads(beat: LeadingScheduler) -> None:
    """Wait for every lead: PostgreSQL ends a session some time after its connection is gone."""
    for queue in queues_of("", "n1"):
        eventually(partial(beat.leads, queue))


def end_connections_of_beat(url: str) -> None:
    """As PostgreSQL does when it restarts."""
    connection = psycopg2.connect(url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    connection.close()
