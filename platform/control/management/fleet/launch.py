"""Start the product whole on one machine: stack, lab, panel and API, workers, beat, Flower.

Gives    Fleet: start(), stop(), the addresses to look at; use it as a context manager
Takes    a House; where output for people goes; which of the lab's worlds receives the mail
Raises   FleetError, with the log to read, when something does not come up
Follows  design.md section 7 (processes)
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from control.management.fleet.house import TOP, FleetError, House
from control.management.fleet.ports import LOOPBACK, Ports
from embedded.errors import EmbeddedError
from embedded.stack import Stack
from embedded.supervise import Supervisor
from lab.world import WORLDS
from mailcore.ports import StoreUnavailable
from mailio.shaper import RedisShaper
from mailio.stats import open_statistics

WEB_PORT = 8025
FLOWER_PORT = 8555
WORKER_THREADS = 8
WEB_THREADS = 16
READY_S = 60.0
FLOWER_USER = "operator"
LAB_WORLD = "wide"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where to look."""

    panel: str
    api: str
    flower: str
    lab_control_port: int


class Fleet:
    """Everything, as children of this process: they end when it does, however it ends."""

    def __init__(self, house: House, *, say: Callable[[str], None], world: str = LAB_WORLD) -> None:
        self._house = house
        self._world_name = world
        self.world = WORLDS[world]()
        self._say = say
        self._logs = house.var_dir / "log"
        self._ports = Ports()
        self._stack = Stack(house.var_dir, os.environ, say=say)
        self._lab = Supervisor(self._logs, say=say)
        self._processes = Supervisor(self._logs, say=say, stop_in_order=False)
        self.environment: dict[str, str] = {}
        self.addresses = Addresses("", "", "", 0)

    def start(self) -> None:
        """Start all; return when the API answers."""
        began = time.monotonic()
        self._house.claim()
        try:
            urls = self._stack.start()
            self._mark_born(urls["REDIS_URL"])
            lab = self._start_lab() if self._house.mode == "lab" else {}
            web_port = self._ports.take(WEB_PORT)
            flower_port = self._ports.take(FLOWER_PORT)
            web = f"http://127.0.0.1:{web_port}"
            self.environment = self._house.environment({**urls, **lab, "PUBLIC_URL": web})
            self._house.write_environment(self.environment)
            self.addresses = Addresses(
                panel=f"{web}/panel/",
                api=f"{web}/api/v2",
                flower=f"http://127.0.0.1:{flower_port}/",
                lab_control_port=int(lab.get("LAB_CONTROL_PORT", "0")),
            )
            self.manage("migrate", "--verbosity", "0")
            self._migrate_statistics()
            self.manage("seed", *(["--lab"] if self._house.mode == "lab" else []))
            self._add_processes(web_port, flower_port)
            self._processes.start()
        except (EmbeddedError, StoreUnavailable) as exc:
            self.stop()
            raise FleetError(str(exc)) from exc
        except BaseException:
            self.stop()
            raise
        self._say(f"all up after {time.monotonic() - began:.1f} s")

    def stop(self) -> None:
        """Stop all: who delivers first, the stores last."""
        self._processes.stop()
        self._lab.stop()
        self._stack.stop()
        self._ports.close()
        self._house.release()

    @property
    def token_path(self) -> Path:
        """Where seeding left the API token of this machine's own use."""
        return self._house.var_dir / "api-token"

    def pids(self) -> dict[str, int]:
        """Return our processes by name."""
        return self._processes.pids()

    def manage(self, *arguments: str) -> str:
        """Run a management command against this installation; pass its words on."""
        done = subprocess.run(  # noqa: S603  our own interpreter and command
            [sys.executable, "manage.py", *arguments],
            cwd=TOP,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            # Ctrl-C is for us: a migration is not to be cut in two.
            start_new_session=True,
        )
        if done.returncode:
            raise FleetError(f"manage.py {arguments[0]} failed:\n{done.stderr.strip()[-2000:]}")
        if done.stdout.strip():
            self._say(done.stdout.strip())
        return done.stdout

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _migrate_statistics(self) -> None:
        statistics = open_statistics(self.environment["CLICKHOUSE_URL"])
        try:
            statistics.migrate()
        finally:
            statistics.close()

    def _mark_born(self, redis_url: str) -> None:
        """Tell a store we have just made that nobody can hold a slot of it (mailio.shaper)."""
        mark = self._house.var_dir / "run" / "shaper-born"
        if mark.exists():
            return

        async def tell() -> None:
            shaper = RedisShaper(redis_url)
            try:
                await shaper.mark_born()
            finally:
                await shaper.close()

        asyncio.run(tell())
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()

    # ── parts ────────────────────────────────────────────────────────────────────────────────

    def _start_lab(self) -> dict[str, str]:
        """Start the fake internet and return what the product needs to find it."""
        exchangers = [host.address for one in self.world.providers for host in one.mx_hosts]
        ports = {
            name: self._ports.take(start, exchangers if name == "smtp" else [LOOPBACK])
            for name, start in _LAB_PORTS.items()
        }
        argv = [sys.executable, "-m", "lab", "--dir", str(self._house.var_dir / "lab")]
        argv += ["--world", self._world_name]
        for name, port in ports.items():
            argv += [f"--{name}-port", str(port)]
        health = f"http://127.0.0.1:{ports['control']}/health"
        self._lab.add(
            "lab",
            argv,
            self._house.environment({}),
            cwd=TOP,
            ready=lambda: answers(health),
            ready_timeout_s=READY_S,
        )
        self._lab.start()
        return {
            "SMTP_PORT": str(ports["smtp"]),
            "DNS_RESOLVER": f"127.0.0.1:{ports['dns']}",
            "LAB_CONTROL_PORT": str(ports["control"]),
            "LAB_POP3_PORT": str(ports["pop3"]),
            "LAB_WORLD": self._world_name,
        }

    def _add_processes(self, web_port: int, flower_port: int) -> None:
        web = [
            *("-m", "gunicorn", "control.wsgi:application"),
            *("--bind", f"127.0.0.1:{web_port}"),
            *("--worker-class", "gthread", "--workers", "1", "--threads", str(WEB_THREADS)),
            *("--graceful-timeout", "10", "--log-level", "warning"),
            # The most it takes: a bare message comes with its recipients in the query.
            *("--limit-request-line", "8190"),
        ]
        health = f"http://127.0.0.1:{web_port}/health"
        self._add("web", web, ready=lambda: answers(health))
        node = self.environment.get("NODE", "") or socket.gethostname().split(".")[0].lower()
        for name, kind in self._workers():
            pool = ("prefork", 2) if kind == "control" else ("threads", WORKER_THREADS)
            argv = [
                *("-m", "celery", "-A", "workers.app", "worker", "-n", f"{name}@{node}"),
                *("-P", pool[0], "-c", str(pool[1]), "-E"),
                *("-l", "INFO", "--without-gossip", "--without-mingle"),
            ]
            self._add(name, argv, {"WORKER_KIND": kind}, stop_timeout_s=40.0)
        schedule = self._house.var_dir / "run" / "beat"
        beat = ["-m", "celery", "-A", "workers.app", "beat", "-s", str(schedule), "-l", "WARNING"]
        self._add("beat", [*beat, "--pidfile="])
        flower = [
            *("-m", "celery", "-A", "workers.app", "flower", "--address=127.0.0.1"),
            f"--port={flower_port}",
        ]
        auth = f"{FLOWER_USER}:{self._house.password('FLOWER_PASSWORD')}"
        # By the environment, not the command line, which every user of the machine can read.
        self._add("flower", flower, {"FLOWER_BASIC_AUTH": auth})

    @staticmethod
    def _workers() -> list[tuple[str, str]]:
        """One delivery process per core, one of each other kind."""
        delivery = [(f"delivery{n}", "delivery") for n in range(1, (os.cpu_count() or 1) + 1)]
        others = [(kind, kind) for kind in ("event", "upkeep", "control")]
        return [("priority", "priority"), *delivery, *others]

    def _add(
        self,
        name: str,
        argv: Sequence[str],
        extra: Mapping[str, str] | None = None,
        *,
        ready: Callable[[], bool] | None = None,
        stop_timeout_s: float = 15.0,
    ) -> None:
        self._processes.add(
            name,
            [sys.executable, *argv],
            {**self.environment, **(extra or {})},
            cwd=TOP,
            ready=ready,
            ready_timeout_s=READY_S,
            stop_timeout_s=stop_timeout_s,
        )


_LAB_PORTS = {"smtp": 10025, "dns": 10053, "control": 10080, "pop3": 10110, "pop3s": 10995}


def answers(url: str) -> bool:
    """Whether an HTTP address says 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310  loopback http
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def read_token(path: Path) -> str:
    """Return the API token that seeding left for this machine's own use."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as exc:
        raise FleetError(f"{path}: {exc.strerror}") from exc
