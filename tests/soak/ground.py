"""What faults happen to: services, the lines to them, the disk of the spool, and a fleet.

Gives    Ground: a context; running, services, lines, disk; kill(), freeze(), hits
Takes    a directory; which broker; where output for people goes
Raises   MissingService, StartError, FleetError
Follows  docs/operate/fleet.md (a fleet on services of its own)
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from control.management.fleet.killing import Kill, connections_of, ended_by, on_the_wire
from tests.soak.account import Hit
from tests.soak.cutting import Line
from tests.support.fleet import Running, descendants, starting
from tests.support.services import (
    ClickhouseServer,
    PostgresServer,
    RabbitMq,
    RedisServer,
    ValkeyServer,
    service,
)

BROKERS = ("rabbitmq", "valkey")
# A node takes no mail below 256 MB of free space, and warns below 2 GB.
DISK_MB = 768
# Processes that speak to receivers.
SENDERS = ("priority", "delivery")
ENDINGS_WITHIN_S = 5.0
# A sender is killed while it sends, if it does so within this time.
BUSY_WITHIN_S = 3.0


@dataclass(slots=True)
class Struck:
    """A process that spoke to receivers and was killed."""

    name: str
    kill: Kill
    connections: frozenset[int]


@dataclass(slots=True)
class Services:
    """The stores. Without a RabbitMQ a Valkey is the broker and the rest of Redis's work, as on the
    embedded stack."""

    redis: RedisServer
    postgres: PostgresServer
    clickhouse: ClickhouseServer
    rabbitmq: RabbitMq | None = None
    broker_url: str = ""


class Disk:
    """The disk of the spool: a small file system of its own, which only root can make; without
    root the directory is one as any, and faults of the disk are left out."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.is_own = os.geteuid() == 0
        self._image = where.with_suffix(".img")
        where.mkdir(parents=True, exist_ok=True)
        if self.is_own:
            with self._image.open("wb") as file:
                file.truncate(DISK_MB << 20)
            _run("mkfs.ext4", "-q", "-m", "0", str(self._image))
            _run("mount", "-o", "loop", str(self._image), str(where))

    def fill(self) -> None:
        """Leave no room at all."""
        with self._filler.open("wb") as file:
            for size in (64 << 20, 1 << 20, 1 << 12):
                with contextlib.suppress(OSError):
                    while True:
                        os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, size)

    def empty(self) -> None:
        """Give the room back."""
        self._filler.unlink(missing_ok=True)

    def allow_writing(self, *, is_allowed: bool) -> None:
        """Make it read-only, or not. Raises CalledProcessError while a file is open for writing."""
        _run("mount", "-o", f"remount,{'rw' if is_allowed else 'ro'}", str(self.where))

    def stall(self, lasts_s: float) -> None:
        """Let every write wait, as on a disk that does not answer; a process of its own ends it,
        whatever becomes of us."""
        script = 'fsfreeze -f "$1"; sleep "$2"; fsfreeze -u "$1"'
        _run("sh", "-c", script, "stall", str(self.where), f"{lasts_s:.1f}")

    def close(self) -> None:
        """Take it away."""
        if self.is_own:
            subprocess.run(["umount", "-l", str(self.where)], check=False)
            self._image.unlink(missing_ok=True)

    @property
    def _filler(self) -> Path:
        return self.where / "filler"


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, start_new_session=True)


@dataclass
class Ground:
    """All of it, started and stopped as a context."""

    directory: Path
    broker: str = "rabbitmq"
    environ: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.struck: list[Struck] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.services = _services(self.broker)
            urls = {
                "DATABASE_URL": self.services.postgres.database(),
                "REDIS_URL": self.services.redis.database(),
                "CLICKHOUSE_URL": self.services.clickhouse.database(),
                "BROKER_URL": self.services.broker_url,
            }
            self.urls = dict(urls)
            self.lines = {name: Line(url) for name, url in urls.items()}
            for line in self.lines.values():
                stack.callback(line.close)
            self.directory.mkdir(parents=True, exist_ok=True)
            self.disk = Disk(self.directory / "spool")
            stack.callback(self.disk.close)
            reached = {name: line.url for name, line in self.lines.items()}
            self.running: Running = stack.enter_context(
                starting(self.directory, {**reached, **self.environ})
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    # ── processes ─────────────────────────────────────────────────────────────────────────────

    def names(self) -> list[str]:
        """Return the processes that faults may hit: all but Flower, which is a window."""
        return sorted(name for name in self.running.fleet.pids() if name != "flower")

    def pids_of(self, name: str) -> list[int]:
        """Return a process and its children; none if it does not run."""
        pid = self.running.fleet.pids().get(name)
        return [] if pid is None else [pid, *descendants(pid)]

    def kill(self, name: str, *, fault: str) -> str:
        """SIGKILL; return what was hit. It is started again by its supervisor."""
        pid = self.running.fleet.pids().get(name)
        if pid is None:
            return f"{name} does not run"
        try:
            return self._kill(name, pid, fault=fault)
        except ProcessLookupError:
            return f"{name} ended by itself"

    def _kill(self, name: str, pid: int, *, fault: str) -> str:
        if not name.startswith(SENDERS):
            os.kill(pid, signal.SIGKILL)
            return f"{name} ({pid})"
        port = int(self.running.fleet.environment["SMTP_PORT"])
        deadline = time.monotonic() + BUSY_WITHIN_S
        while not connections_of(pid, port) and time.monotonic() < deadline:
            time.sleep(0.02)  # noqa: TID251 - between two looks at another process
        monotonic, at = time.monotonic(), time.time()
        os.kill(pid, signal.SIGSTOP)
        try:
            peers = connections_of(pid, port)
        finally:
            os.kill(pid, signal.SIGKILL)
        kill = Kill(name, pid, monotonic, at, peers)
        self.struck.append(Struck(fault, kill, self._connections_of(kill)))
        return f"{name} ({pid}), {len(peers)} connections"

    @contextlib.contextmanager
    def frozen(self, name: str) -> Any:
        """Stop a process and its children for the block, and let them go on."""
        pids = self.pids_of(name)
        _signal(pids, signal.SIGSTOP)
        try:
            yield pids
        finally:
            _signal(pids, signal.SIGCONT)

    def down(self) -> list[str]:
        """Return the processes that do not run, or are not ready."""
        lines = self.running.fleet.overview().processes
        return [one.name for one in lines if not one.is_running]

    def hits(self, facts: Iterable[Mapping[str, Any]]) -> list[Hit]:
        """Return whom each kill found on the wire."""
        known = list(facts)
        return [Hit(one.name, on_the_wire(one.kill, one.connections, known)) for one in self.struck]

    def _connections_of(self, kill: Kill) -> frozenset[int]:
        deadline = time.monotonic() + ENDINGS_WITHIN_S
        found: dict[str, int] = {}
        while len(found) < len(kill.peers) and time.monotonic() < deadline:
            found = ended_by(kill, self.running.lab.endings())
            time.sleep(0.05)  # noqa: TID251 - between two looks at another process
        return frozenset(found.values())


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _services(broker: str) -> Services:
    if broker not in BROKERS:
        raise ValueError(f"there is no broker {broker!r}; there are {', '.join(BROKERS)}")
    rabbitmq = service("rabbitmq", RabbitMq) if broker == "rabbitmq" else None
    redis = (
        service("redis_server", RedisServer) if rabbitmq else service("valkey_server", ValkeyServer)
    )
    return Services(
        redis=redis,
        postgres=service("postgres_server", PostgresServer),
        clickhouse=service("clickhouse_server", ClickhouseServer),
        rabbitmq=rabbitmq,
        broker_url=rabbitmq.virtual_host() if rabbitmq else redis.database(),
    )
