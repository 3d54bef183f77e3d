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
