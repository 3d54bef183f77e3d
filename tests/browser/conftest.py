"""A real browser, the panel in a process of its own, and statistics with something in them.

No test here touches Django's ORM: the browser's loop runs in this thread, and what it looks at is
served by another process.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from control.management.fleet.launch import answers
from mailio.stats import ClickhouseStatistics, open_statistics
from tests.support.fleet import environment_without_ours, eventually
from tests.support.happened import some_hours, store
from tests.support.ports import free_port
from tests.support.stack import chdb_url, postgres_url, redis_url

TOP = Path(__file__).resolve().parents[2]
START_S = 120.0
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--disable-dev-shm-usage",
)
_PASSWORD = re.compile(r"^password: (\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Served:
    """The panel over HTTP, and the statistics it reads."""

    url: str
    password: str
    statistics: ClickhouseStatistics


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The browser of the system."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed: nobody looks at the pages")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def served(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The panel of a fresh installation in which mail was sent for a day."""
    var = tmp_path_factory.mktemp("var")
    (var / "spool").mkdir()
    clickhouse_url = chdb_url()
    environment = {
        **environment_without_ours(os.environ),
        "DATABASE_URL": postgres_url(),
        "REDIS_URL": (redis := redis_url()),
        "BROKER_URL": redis,
        "CLICKHOUSE_URL": clickhouse_url,
        "SPOOL_URL": f"file://{var}/spool",
        "SECRET_KEYS": f"1:{base64.b64encode(bytes(range(32))).decode()}",
        "VAR_DIR": str(var),
        "NODE": "node1",
        "DJANGO_SETTINGS_MODULE": "control.settings",
        "PYTHONPATH": f"{TOP}:{TOP / 'platform'}",
    }
    manage(environment, "migrate", "--verbosity", "0")
    password = _PASSWORD.search(manage(environment, "seed"))
    assert password is not None
    statistics = open_statistics(clickhouse_url)
    statistics.migrate()
    now = datetime.now(UTC)
    store(statistics, some_hours(now, hours=0.9, messages=3000, seed=1))
    store(statistics, some_hours(now - timedelta(hours=1), hours=22, messages=5000, seed=2))
    try:
        with serving(environment, var) as url:
            yield Served(url, password[1], statistics)
    finally:
        statistics.close()


def manage(environment: dict[str, str], *arguments: str) -> str:
    """Run a management command; return what it said."""
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=TOP,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def serving(environment: dict[str, str], var: Path) -> Iterator[str]:
    """Run the panel's own server; give its address."""
    address = f"127.0.0.1:{free_port()}"
    argv = [sys.executable, "-m", "gunicorn", "control.wsgi:application", "--bind", address]
    argv += ["--worker-class", "gthread", "--threads", "4", "--log-level", "warning"]
    log = var / "web.log"
    with log.open("wb") as out:
        process = subprocess.Popen(argv, cwd=TOP, env=environment, stdout=out, stderr=out)
    try:
        url = f"http://{address}"
        eventually(lambda: answers(f"{url}/health"), within_s=START_S, what=log.read_text)
        yield url
    finally:
        process.terminate()
        process.wait(60)
