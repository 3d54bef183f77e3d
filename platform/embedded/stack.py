"""The embedded stack: the services the product needs, private to one directory.

Takes    the directory (`var/`), the environment: DATABASE_URL, REDIS_URL, BROKER_URL,
         CLICKHOUSE_URL and SPOOL_URL each replace what is started here
Gives    `start()`: the five URLs; `status()`; `stop()`; a context manager
Raises   StartError with the last lines of the service's log; StackBusy; MissingBinary
Follows  docs/operate/embedded.md

Found or started: a service that another living process runs for the same directory is used, not
started again, and not stopped by us. What we started is watched, restarted with back-off when it
dies, and ended by its guard should this process be killed.
"""

import functools
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from embedded import clickhouse, postgres, valkey
from embedded.binaries import postgres_bin
from embedded.child import Child
from embedded.clickhouse import Chdb
from embedded.errors import StartError
from embedded.identity import choose_identity
from embedded.postgres import Postgres
from embedded.procs import ProcessId, free_port
from embedded.rundir import RunDir, ServiceRecord, pause
from embedded.supervise import Supervisor
from embedded.valkey import Valkey

# Which URLs each service stands for; it is started unless all of them are set.
URLS = {
    postgres.NAME: ("DATABASE_URL",),
    valkey.NAME: ("REDIS_URL", "BROKER_URL"),
    clickhouse.NAME: ("CLICKHOUSE_URL",),
}
SERVICES = tuple(URLS)
PORT_TRIES = 5
# The application's secrets are none of the services' business.
PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")


class ServiceState(Enum):
    REPLACED = "replaced"
    RUNNING = "running"
    FOUND = "found"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """`FOUND` runs for the same directory, started by another process (`owner_pid`)."""

    name: str
    state: ServiceState
    pid: int | None
    owner_pid: int | None


class Stack:
    """The private services of one directory."""

    def __init__(
        self,
        var_dir: Path,
        environ: Mapping[str, str],
        *,
        services: Sequence[str] = SERVICES,
        durable: bool = True,
        say: Callable[[str], None] | None = None,
        start_timeout_s: float = 60.0,
    ) -> None:
        unknown = set(services) - set(SERVICES)
        if unknown:
            raise ValueError(f"no such service: {', '.join(sorted(unknown))}")
        self._run_dir = RunDir(Path(var_dir).absolute())
        self._environ = dict(environ)
        self._services = tuple(name for name in SERVICES if name in services)
        self._durable = durable
        self._timeout_s = start_timeout_s
        self._addresses: dict[str, Mapping[str, str | int]] = {}
        self._giving_up = threading.Event()
        self._supervisor = Supervisor(
            self._run_dir.log, say=say, on_start=self._note_start, stop_in_order=False
        )

    def start(self) -> dict[str, str]:
        """Find or start what is wanted and return the URLs of everything."""
        self._run_dir.create()
        self._giving_up.clear()
        try:
            with self._run_dir.starting(self._timeout_s):
                missing = [name for name in self._wanted() if not self._find(name)]
                self._launch_all(missing)
        except BaseException:
            self.stop()
            raise
        return self.urls()

    def stop(self) -> None:
        """Stop what this process started; what it found is left running."""
        ours = self._supervisor.status()
        self._supervisor.stop()
        for name in ours:
            address = self._run_dir.read_record(name).address
            if name == clickhouse.NAME and "path" in address:
                clickhouse.remove_socket(Path(address["path"]), self._run_dir)
            self._run_dir.write_record(name, ServiceRecord(None, None, address))

    def urls(self) -> dict[str, str]:
        """Return the URLs of all that is started, found or replaced."""
        urls = {"SPOOL_URL": self._environ.get("SPOOL_URL") or self._spool_url()}
        for name in self._services:
            for variable in URLS[name]:
                urls[variable] = self._environ.get(variable) or self._url(name, variable)
        return urls

    def status(self) -> dict[str, ServiceStatus]:
        """Return what runs for this directory now, whoever started it."""
        return {name: self._status(name) for name in self._services}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _wanted(self) -> list[str]:
        return [
            name
            for name in self._services
            if not all(self._environ.get(variable) for variable in URLS[name])
        ]

    def _status(self, name: str) -> ServiceStatus:
        if name not in self._wanted():
            return ServiceStatus(name, ServiceState.REPLACED, None, None)
        record = self._run_dir.read_record(name)
        process, owner = record.process, record.owner
        if process is None or owner is None or not process.is_alive():
            return ServiceStatus(name, ServiceState.STOPPED, None, None)
        state = ServiceState.RUNNING if owner.pid == os.getpid() else ServiceState.FOUND
        return ServiceStatus(name, state, process.pid, owner.pid)

    def _find(self, name: str) -> bool:
        """Return True once a living owner's service is ready, False once there surely is none."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            record = self._run_dir.read_record(name)
            is_running = record.process is not None and record.process.is_alive()
            has_owner = record.owner is not None and record.owner.is_alive()
            if not is_running and not has_owner:
                return False
            # An owner whose service died starts it again; a service without owner is being ended.
            if is_running and has_owner and self._is_ready(name, record.address):
                self._addresses[name] = record.address
                return True
            if time.monotonic() > deadline:
                reason = "the process that owns it does not bring it up"
                raise StartError(name, reason if has_owner else "an old one does not end")
            pause(0.05)

    def _is_ready(self, name: str, address: Mapping[str, str | int]) -> bool:
        child = self._child(name, address)
        try:
            return child.ready is not None and child.ready()
        except OSError:
            return False

    def _launch_all(self, names: Sequence[str]) -> None:
        """Start services side by side. The first failure, or Ctrl-C, ends the wait for all."""
        if not names:
            return
        with ThreadPoolExecutor(len(names)) as pool:
            try:
                for launch in as_completed([pool.submit(self._launch, name) for name in names]):
                    launch.result()
            except BaseException:
                self._giving_up.set()
                self._supervisor.stop()
                raise

    def _launch(self, name: str) -> None:
        """Start one service; again on another port if its own was taken meanwhile."""
        if name == postgres.NAME:
            self._postgres.create(self._service_environment())
        for tries_left in reversed(range(PORT_TRIES)):
            address = self._new_address(name)
            self._addresses[name] = address
            if self._giving_up.is_set():
                return
            self._supervisor.add_child(self._child(name, address))
            try:
                self._supervisor.start(name)
            except StartError as exc:
                if tries_left == 0 or "ddress already in use" not in exc.log_tail:
                    raise
            else:
                return

    def _new_address(self, name: str) -> dict[str, str | int]:
        """Where the service will listen: where it did last time, if that is free."""
        last = self._run_dir.read_record(name).address
        if name == clickhouse.NAME:
            return {"path": str(Chdb(self._run_dir).socket_path(last.get("path")))}
        return {"port": free_port(preferred=last.get("port"))}

    def _child(self, name: str, address: Mapping[str, str | int]) -> Child:
        env = self._service_environment()
        timeout_s = self._timeout_s
        if name == postgres.NAME:
            return self._postgres.child(int(address["port"]), env, ready_timeout_s=timeout_s)
        if name == valkey.NAME:
            server = Valkey(self._run_dir, durable=self._durable)
            return server.child(int(address["port"]), env, ready_timeout_s=timeout_s)
        owner = Chdb(self._run_dir)
        return owner.child(Path(str(address["path"])), env, ready_timeout_s=timeout_s)

    @functools.cached_property
    def _postgres(self) -> Postgres:
        return Postgres(self._run_dir, choose_identity(postgres_bin()), durable=self._durable)

    def _service_environment(self) -> dict[str, str]:
        env = {name: self._environ[name] for name in PASSED_ON if name in self._environ}
        env.setdefault("PATH", os.defpath)
        return env

    def _note_start(self, name: str, process: ProcessId) -> None:
        owner = ProcessId.of(os.getpid())
        self._run_dir.write_record(name, ServiceRecord(process, owner, self._addresses[name]))

    def _url(self, name: str, variable: str) -> str:
        if name not in self._addresses:
            raise StartError(name, "start() has not been called")
        address = self._addresses[name]
        if name == postgres.NAME:
            return self._postgres.url(int(address["port"]))
        if name == clickhouse.NAME:
            return Chdb(self._run_dir).url(Path(str(address["path"])))
        is_broker = variable == "BROKER_URL"
        database = valkey.BROKER_DATABASE if is_broker else valkey.CACHE_DATABASE
        return Valkey(self._run_dir).url(int(address["port"]), database)

    def _spool_url(self) -> str:
        spool = self._run_dir.data("spool")
        spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        return f"file://{quote(str(spool))}"
