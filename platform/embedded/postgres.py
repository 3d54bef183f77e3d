"""A private PostgreSQL: made once, reached over loopback TCP with a password, no socket file.

Takes    the run directory, a port, whether commits must survive a power cut
Gives    the argv that runs it, a readiness probe, its URL
Raises   StartError when the cluster cannot be made, MissingBinary
Follows  PostgreSQL 16 message format (the start-up exchange, for the probe)
"""

import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from embedded.child import Child
from embedded.errors import StartError
from embedded.identity import Identity
from embedded.procs import tail
from embedded.rundir import RunDir, write_private

NAME = "postgres"
USER = "postfleet"
DATABASE = "postfleet"

# For one small machine that runs the whole product: little memory, steady vacuum, no replication.
SETTINGS = {
    "shared_buffers": "128MB",
    "effective_cache_size": "512MB",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    "max_connections": "200",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "10min",
    "checkpoint_completion_target": "0.9",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "wal_compression": "on",
    "random_page_cost": "1.1",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "autovacuum_naptime": "15s",
    "autovacuum_vacuum_cost_limit": "1000",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] ",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "password_encryption": "scram-sha-256",
    "unix_socket_directories": "",
    "listen_addresses": "127.0.0.1",
}
THROWAWAY = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


@dataclass(frozen=True, slots=True)
class Postgres:
    """One cluster in `postgres/` of a run directory, or where its system user can reach it."""

    run_dir: RunDir
    identity: Identity
    durable: bool = True

    @property
    def data(self) -> Path:
        return self.identity.data_dir(self.run_dir.data(NAME))

    def url(self, port: int) -> str:
        password = self.run_dir.password(NAME)
        return f"postgresql://{USER}:{password}@127.0.0.1:{port}/{DATABASE}"

    def child(self, port: int, env: Mapping[str, str], *, ready_timeout_s: float) -> Child:
        settings = {**SETTINGS, **({} if self.durable else THROWAWAY), "port": str(port)}
        where = ("-D", str(self.data))
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return Child(
            NAME,
            (*self.identity.prefix, str(self.identity.bin / "postgres"), *where, *options),
            self._environment(env),
            cwd=self.data,
            ready=lambda: answers(port),
            ready_timeout_s=ready_timeout_s,
            stop_signal=signal.SIGINT,  # fast shutdown: sessions are cut, everything is written
            stop_timeout_s=30.0,
            lock=self.run_dir.lock(NAME),
            pid_file=self.data / "postmaster.pid",
            uid=self.identity.uid,
            gid=self.identity.gid,
        )

    def create(self, env: Mapping[str, str]) -> None:
        """Make the cluster unless it is there; a half-made one never takes its place."""
        self.identity.adopt(self.data, self.run_dir.data(NAME))
        if (self.data / "PG_VERSION").exists():
            return
        log_path = self.run_dir.log / f"{NAME}.log"
        self.data.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._remove_drafts()
        draft = self.data.with_name(f".{self.data.name}.{secrets.token_hex(4)}")
        draft.mkdir(mode=0o700)
        password_file = draft.with_name(f"{draft.name}.pw")
        write_private(password_file, self.run_dir.password(NAME) + "\n")
        self.identity.give(draft, password_file)
        initdb = [str(self.identity.bin / "initdb"), "-D", str(draft), "-U", USER]
        initdb += ["--encoding=UTF8", "--locale=C.UTF-8", "--auth=scram-sha-256"]
        initdb += [f"--pwfile={password_file}"] + ([] if self.durable else ["--no-sync"])
        single = [str(self.identity.bin / "postgres"), "--single", "-D", str(draft)]
        single += ["-c", "fsync=on" if self.durable else "fsync=off", "postgres"]
        try:
            self._run(initdb, b"", env, log_path)
            self._run(single, f"CREATE DATABASE {DATABASE}\n".encode(), env, log_path)
            if not (draft / "PG_VERSION").exists():
                raise StartError(NAME, "initdb left no cluster", tail(log_path))
            os.rename(draft, self.data)
        finally:
            password_file.unlink(missing_ok=True)
            shutil.rmtree(draft, ignore_errors=True)

    def _remove_drafts(self) -> None:
        for leftover in self.data.parent.glob(f".{self.data.name}.*"):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)

    def _run(self, argv: list[str], data: bytes, env: Mapping[str, str], log_path: Path) -> None:
        identity: dict[str, int | list[int]] = {}
        if self.identity.uid is not None and self.identity.gid is not None:
            identity = {"user": self.identity.uid, "group": self.identity.gid, "extra_groups": []}
        with log_path.open("ab") as log:
            done = subprocess.run(  # type: ignore[call-overload]
                [*self.identity.prefix, *argv],
                input=data,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(env),
                cwd="/",
                timeout=120,
                check=False,
                **identity,
            )
        if done.returncode != 0:
            program = Path(argv[0]).name
            raise StartError(NAME, f"{program} ended with {done.returncode}", tail(log_path))

    def _environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """The caller's environment without what would turn PostgreSQL away from its cluster."""
        kept = {name: value for name, value in env.items() if not name.startswith("PG")}
        return {**kept, "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def answers(port: int, *, timeout_s: float = 1.0) -> bool:
    """Return whether a session would be let in to give its password."""
    parameters = f"user\0{USER}\0database\0{DATABASE}\0\0".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        connection.settimeout(timeout_s)
        connection.sendall(struct.pack("!ii", len(parameters) + 8, 196608) + parameters)
        # R asks for the password; E is "starting up" or "shutting down".
        return connection.recv(1024)[:1] == b"R"
