"""The processes of a node: what each runs, and how a list of them is written.

Gives    Spec; names_of(), which reads `web,delivery*2`; usual_names(); specs_of(); kind_of();
         Listen, an address to listen on
Takes    names, the environment of the processes, where web and Flower listen
Raises   FleetError naming the entry that is none
Follows  design.md section 7 (processes)

`make run`, `fleet up` and `fleet exec` (and so the units of deploy/systemd) start what stands here.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from control.management.fleet.house import FleetError
from mailio.settings import STOP_S, SettingsError, host_name, read_stop_s

WORKERS = ("priority", "delivery", "event", "upkeep", "control")
KINDS = ("lab", "web", "smtpd", *WORKERS, "beat", "flower")
# Any number of these may run on a node; of the others one is all there is to do.
MANY = ("delivery",)
MOST = 64
WORKER_THREADS = 8
# Jobs and alerts use the ORM and hold what they use: processes of their own, few of them.
CONTROL_CHILDREN = 2
WEB_THREADS = 16
READY_S = 60.0
# Beyond STOP_S, in which a worker finishes what is on the wire and gives back what it claimed, and
# a listener lets clients finish the message they are sending.
WORKER_CLOSE_S = 10.0
SMTPD_CLOSE_S = 5.0
WORKER_STOP_S = STOP_S + WORKER_CLOSE_S
FLOWER_USER = "operator"
# Results and keyword arguments are never used; what a bell says stands in `args`. On a busy machine
# a worker answers later than after Flower's one second.
_FLOWER = {
    "FLOWER_TASKS_COLUMNS": "name,args,state,received,runtime,worker,uuid",
    "FLOWER_INSPECT_TIMEOUT": "2000",
}
_ENTRY = re.compile(r"(?P<kind>[a-z]+)(?:(?P<number>[0-9]+)|\*(?P<count>[0-9]+))?")


@dataclass(frozen=True, slots=True)
class Listen:
    """An address to listen on."""

    host: str
    port: int

    @classmethod
    def parse(cls, variable: str, text: str) -> Listen:
        """Read `address:port`, or raise FleetError naming the variable."""
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isascii() or not port.isdigit():
            raise FleetError(f"{variable}: {text!r} is not address:port")
        if not 0 < int(port) < 65536:
            raise FleetError(f"{variable}: there is no port {port}")
        return cls(host.strip("[]"), int(port))

    @property
    def url(self) -> str:
        """Where a browser on this host finds it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Spec:
    """One process. It is ready when `health` answers, or when `ready_file` holds its pid."""

    name: str
    argv: tuple[str, ...]
    extra: Mapping[str, str] = field(default_factory=dict)
    health: str = ""
    ready_file: Path | None = None
    stop_s: float = 15.0

    @property
    def command(self) -> list[str]:
        """Program and arguments."""
        return [sys.executable, *self.argv]

    def environment(self, common: Mapping[str, str]) -> dict[str, str]:
        """Return the environment it runs in."""
        own = {"READY_FILE": str(self.ready_file)} if self.ready_file is not None else {}
        return {**common, **self.extra, **own}


def kind_of(name: str) -> str:
    """Return what a process is: `delivery` for `delivery2`."""
    return name.rstrip("0123456789")


def usual_names(
    mode: str, environ: Mapping[str, str], *, cores: int | None = None
) -> tuple[str, ...]:
    """Return everything a fleet of one node runs: one delivery process for each core, and a
    listener if it is told where."""
    count = cores or os.cpu_count() or 1
    listens = environ.get("SMTPD_LISTEN") or environ.get("SMTPD_TLS_LISTEN")
    unwanted = {"" if mode == "lab" else "lab", "" if listens else "smtpd"}
    kinds = [kind for kind in KINDS if kind not in unwanted]
    return names_of(",".join(f"{kind}*{count}" if kind in MANY else kind for kind in kinds))


def names_of(text: str) -> tuple[str, ...]:
    """Read a list like `web,priority,delivery*2,event`; `delivery3` is the third alone."""
    names: list[str] = []
    for entry in filter(None, (part.strip() for part in text.split(","))):
        names += _named(entry)
    if not names:
        raise FleetError("--processes names none")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise FleetError(f"--processes names {', '.join(twice)} twice")
    return tuple(sorted(names, key=lambda name: KINDS.index(kind_of(name))))


def _named(entry: str) -> list[str]:
    found = _ENTRY.fullmatch(entry)
    if found is None or found["kind"] not in KINDS:
        raise FleetError(f"there is no process {entry!r}; there are {', '.join(KINDS)}")
    kind = found["kind"]
    if found["number"] is None and found["count"] is None:
        return [f"{kind}1" if kind in MANY else kind]
    if kind not in MANY:
        raise FleetError(f"{entry}: a node has one {kind} process at most")
    number = int(found["number"] or found["count"])
    if not 0 < number <= MOST:
        raise FleetError(f"{entry}: a number from 1 to {MOST} is wanted")
    return [f"{kind}{number}"] if found["number"] else [f"{kind}{n + 1}" for n in range(number)]


def specs_of(
    names: Sequence[str], environment: Mapping[str, str], *, web: Listen, flower: Listen
) -> list[Spec]:
    """Return how each of them is run; the lab is none of these."""
    run_dir = Path(environment["VAR_DIR"]) / "run"
    node = environment.get("NODE", "") or host_name()
    try:
        stop_s = read_stop_s(environment)
    except SettingsError as exc:
        raise FleetError(str(exc)) from exc
    found = []
    for name in names:
        if name == "web":
            found.append(_web(web))
        elif name == "smtpd":
            found.append(_smtpd(run_dir, stop_s))
        elif name == "beat":
            found.append(_beat(run_dir))
        elif name == "flower":
            found.append(_flower(flower, environment))
        elif name != "lab":
            found.append(_worker(name, node, run_dir, stop_s))
    return found


def _web(listen: Listen) -> Spec:
    argv = (
        *("-m", "gunicorn", "control.wsgi:application"),
        *("--bind", str(listen)),
        *("--worker-class", "gthread", "--workers", "1", "--threads", str(WEB_THREADS)),
        *("--graceful-timeout", "10", "--log-level", "warning"),
        # The most it takes: a bare message comes with its recipients in the query.
        *("--limit-request-line", "8190"),
    )
    return Spec("web", argv, health=f"{listen.url}/health")


def _smtpd(run_dir: Path, stop_s: float) -> Spec:
    argv = ("-m", "workers.smtpd")
    ready_file = run_dir / "smtpd.ready"
    return Spec("smtpd", argv, ready_file=ready_file, stop_s=stop_s + SMTPD_CLOSE_S)


def _worker(name: str, node: str, run_dir: Path, stop_s: float) -> Spec:
    kind = kind_of(name)
    pool = ("prefork", CONTROL_CHILDREN) if kind == "control" else ("threads", WORKER_THREADS)
    argv = (
        *("-m", "celery", "-A", "workers.app", "worker", "-n", f"{name}@{node}"),
        *("-P", pool[0], "-c", str(pool[1]), "-E"),
        *("-l", "INFO", "--without-gossip", "--without-mingle"),
    )
    return Spec(
        name,
        argv,
        {"WORKER_KIND": kind},
        ready_file=run_dir / f"{name}.ready",
        stop_s=stop_s + WORKER_CLOSE_S,
    )


def _beat(run_dir: Path) -> Spec:
    argv = ("-m", "celery", "-A", "workers.app", "beat", "-s", str(run_dir / "beat"))
    return Spec("beat", (*argv, "-l", "WARNING", "--pidfile="))


def _flower(listen: Listen, environment: Mapping[str, str]) -> Spec:
    """Its password comes by the environment, not the command line, which every user of the
    machine can read."""
    argv = (
        *("-m", "celery", "-A", "workers.app", "flower"),
        *(f"--address={listen.host}", f"--port={listen.port}"),
    )
    usual = {name: environment.get(name, "") or value for name, value in _FLOWER.items()}
    return Spec("flower", argv, usual, health=f"{listen.url}/healthcheck")
