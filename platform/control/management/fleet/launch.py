"""Start the product on this machine: stack, lab, panel and API, workers, beat, Flower.

Gives    Fleet: start(), stop(), the addresses to look at, and for the desk overview(), start_one(),
         stop_one(); use it as a context manager. Form: which processes, listening where
Takes    a House; where output for people goes; which of the lab's worlds receives the mail
Raises   FleetError, with the log to read, when something does not come up
Follows  design.md section 7 (processes)
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from control.management.fleet.desk import Desk
from control.management.fleet.house import TOP, FleetError, House
from control.management.fleet.overview import Overview, overview_of
from control.management.fleet.ports import LOOPBACK, Ports
from control.management.fleet.processes import FLOWER_USER as FLOWER_USER
from control.management.fleet.processes import Listen, Spec, specs_of, usual_names
from embedded.child import ChildStatus
from embedded.errors import EmbeddedError
from embedded.stack import Stack
from embedded.supervise import Supervisor
from lab.world import WORLDS
from mailcore.ports import StoreUnavailable
from mailio.ledger.leader import Leadership
from mailio.ledger.pool import Session
from mailio.shaper import RedisShaper
from mailio.stats import open_statistics

WEB_PORT = 8025
FLOWER_PORT = 8555
# A machine that starts much at once is slow, which is no fault of a process.
READY_S = 120.0
TURN_POLL_S = 0.5
LAB_WORLD = "wide"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where to look."""

    panel: str
    api: str
    flower: str
    lab_control_port: int


@dataclass(frozen=True, slots=True)
class Form:
    """How a fleet is put together. `processes` empty: all of a fleet of one node. Without an
    address the next free port is taken. `migrates`: it brings the database to this release;
    `is_new`: nobody can have used its stores before."""

    processes: tuple[str, ...] = ()
    web: Listen | None = None
    flower: Listen | None = None
    migrates: bool = True
    is_new: bool = True


EMBEDDED = Form()


class Fleet:
    """Everything, as children of this process: they end when it does, however it ends."""

    def __init__(
        self,
        house: House,
        *,
        say: Callable[[str], None],
        world: str = LAB_WORLD,
        form: Form = EMBEDDED,
        asked: threading.Event | None = None,
    ) -> None:
        self._house = house
        self._form = form
        self._names = form.processes or usual_names(house.mode, house.environ)
        self._world_name = world
        self.world = WORLDS[world]()
        self._say = say
        self._logs = house.var_dir / "log"
        self._ports = Ports()
        self._stack = Stack(house.var_dir, house.environ, say=say)
        self._asked = asked or threading.Event()
        self._lab = Supervisor(self._logs, say=say, asked=self._asked)
        self._processes = Supervisor(self._logs, say=say, stop_in_order=False, asked=self._asked)
        self._desk = Desk(house.var_dir, self)
        self._began = time.monotonic()
        self.environment: dict[str, str] = {}
        self.addresses = Addresses("", "", "", 0)

    def start(self) -> None:
        """Start all; return when each is ready, but for Flower, which follows.

        KeyboardInterrupt if `asked` to end before.
        """
        self._began = time.monotonic()
        self._house.claim()
        try:
            self._settle_in()
            if self._form.migrates:
                self._migrate()
            self._go_on()
            for spec in specs_of(self._names, self.environment, web=self._web, flower=self._flower):
                self._add(spec)
            # Flower asks who reads which queue once, at its start: all must be there to answer.
            # It is a window, and mail waits for none.
            self._processes.start(*(name for name in self._names if name not in ("lab", "flower")))
            if "flower" in self._names:
                self._processes.start("flower", is_awaited=False)
            self._desk.open()
        except (EmbeddedError, StoreUnavailable) as exc:
            self.stop()
            self._go_on()
            raise FleetError(str(exc)) from exc
        except BaseException:
            self.stop()
            raise
        self._say(f"all up after {time.monotonic() - self._began:.1f} s")

    def _go_on(self) -> None:
        """End as at Ctrl-C if somebody asked for it meanwhile."""
        if self._asked.is_set():
            raise KeyboardInterrupt

    def stop(self) -> None:
        """Stop all: who delivers first, the stores last."""
        self._desk.close()
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

    def overview(self) -> Overview:
        """Return how it stands: processes, policy, whether the node is synced."""
        return overview_of(self._children(), self.environment, self._began)

    def start_one(self, name: str) -> None:
        """Start a process that was stopped, and keep it running; wait until it is ready."""
        try:
            self._keeper(name).start(name)
        except EmbeddedError as exc:
            raise FleetError(str(exc)) from exc

    def stop_one(self, name: str) -> None:
        """Stop a process and keep it down until it is started again."""
        self._keeper(name).keep_down(name)

    def _keeper(self, name: str) -> Supervisor:
        for keeper in (self._lab, self._processes):
            if name in keeper.status():
                return keeper
        raise FleetError(f"there is no process {name!r}; there are {', '.join(self._children())}")

    def _children(self) -> dict[str, ChildStatus]:
        return {**self._lab.status(), **self._processes.status()}

    def manage(self, *arguments: str) -> str:
        """Run a management command against this installation; pass its words on."""
        done = subprocess.run(  # noqa: S603  our own interpreter and command
            [sys.executable, "manage.py", *arguments],
            cwd=TOP,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            # Ctrl-C is for us: a migration is not to be cut in two, however long it takes.
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

    def _settle_in(self) -> None:
        """Find the stores, start the lab, and know the environment of all the rest."""
        house = self._house
        urls = self._stack.start()
        if self._form.is_new:
            self._mark_born(urls["REDIS_URL"])
        lab = self._start_lab() if "lab" in self._names else {}
        self._web = self._form.web or Listen(LOOPBACK, self._ports.take(WEB_PORT))
        self._flower = self._form.flower or Listen(LOOPBACK, self._ports.take(FLOWER_PORT))
        public = house.public_url(self._web.url)
        self.environment = house.environment(
            {**urls, **lab, **public, "FLOWER_BASIC_AUTH": house.flower_auth(FLOWER_USER)}
        )
        house.write_environment(self.environment)
        self.addresses = Addresses(
            panel=f"{self._web.url}/panel/",
            api=f"{self._web.url}/api/v2",
            flower=f"{self._flower.url}/",
            lab_control_port=int(lab.get("LAB_CONTROL_PORT", "0")),
        )

    def _migrate(self) -> None:
        """Bring the database to this release, one node at a time."""
        session = Session(self.environment["DATABASE_URL"], role="migrate")
        try:
            leadership, is_told = Leadership(session), False
            while not leadership.take("migrate"):
                if not is_told:
                    self._say("another node prepares the database: waiting for it")
                    is_told = True
                self._asked.wait(TURN_POLL_S)
                self._go_on()
            self.manage("migrate", "--verbosity", "0")
            self._migrate_statistics()
            self.manage("seed", *(["--lab"] if self._house.mode == "lab" else []))
        finally:
            session.close()

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

    def _add(self, spec: Spec) -> None:
        self._processes.add(
            spec.name,
            spec.command,
            spec.environment(self.environment),
            cwd=TOP,
            ready=lambda: self._is_ready(spec),
            ready_timeout_s=READY_S,
            stop_timeout_s=spec.stop_s,
        )

    def _is_ready(self, spec: Spec) -> bool:
        if spec.ready_file is None:
            return not spec.health or answers(spec.health)
        try:
            # Of this life of it: the file of one that was killed stays.
            return int(spec.ready_file.read_text()) == self.pids().get(spec.name)
        except (OSError, ValueError):
            return False


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
