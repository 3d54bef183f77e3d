"""The Celery application at its edge: a process that cannot start ends."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

NOWHERE = {
    "NODE": "n1",
    "MODE": "lab",
    "BROKER_URL": "redis://127.0.0.1:1/0",
    "DATABASE_URL": "postgresql://127.0.0.1:1/none",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "CLICKHOUSE_URL": "chdb+unix:///none",
    "SPOOL_URL": "file:///none",
    "SECRET_KEYS": "1:" + "A" * 43 + "=",
}
WORKER = ("-m", "celery", "-A", "workers.app", "worker", "-P", "threads", "-c", "1")


@pytest.mark.parametrize("kind", ["delivery", "event", "upkeep"])
def test_a_worker_whose_stores_are_away_at_its_start_ends_and_says_why(kind: str) -> None:
    paths = os.pathsep.join((".", "platform"))
    ended = subprocess.run(
        [sys.executable, *WORKER],
        env={**os.environ, **NOWHERE, "WORKER_KIND": kind, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ended.returncode == 1
    assert "not started" in ended.stderr + ended.stdout


@pytest.mark.parametrize("kind", ["delivery", "control"])
def test_only_the_kind_that_uses_the_orm_sets_django_up(kind: str) -> None:
    code = (
        "import sys, workers.app; workers.app.app.loader.import_default_modules();"
        " print('django.db' in sys.modules)"
    )
    surroundings = {"WORKER_KIND": kind, "DJANGO_SETTINGS_MODULE": "control.settings"}
    paths = os.pathsep.join((".", "platform"))
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **NOWHERE, **surroundings, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    assert ended.stdout.split() == [str(kind == "control")]


def test_nothing_of_ours_runs_while_celery_still_changes_the_environment() -> None:
    """libpq asks for PGHOST and others in every thread that connects; glibc's getenv is not safe
    beside a setenv."""
    code = (
        "import os, sys\n"
        "from workers import runtime\n"
        "from workers.app import app\n"
        "told = []\n"
        "runtime.start = lambda *_: told.append('started')\n"
        "sys.addaudithook(lambda name, _: name == 'os.putenv' and told.append('changed'))\n"
        "worker = app.Worker(pool='threads', concurrency=1, quiet=True)\n"
        "worker.on_start()\n"
        "print(*told)\n"
    )
    paths = os.pathsep.join((".", "platform"))
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **NOWHERE, "WORKER_KIND": "delivery", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    told = ended.stdout.split()
    assert told.count("started") == 1
    assert "changed" in told
    assert told[-1] == "started"
