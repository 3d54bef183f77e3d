"""A private PostgreSQL server of the machine's own package.

Takes    Debian's postgresql-15
Gives    PostgresServer: url, database() for a test of its own; kill(), restart()
Raises   MissingService, StartError

It refuses uid 0: root runs it as `postgres`. fsync is off, so kill() is the end of a process and
no power cut.
"""

from __future__ import annotations

import itertools
import os
import secrets
import subprocess
from pathlib import Path

import psycopg2

from embedded.errors import StartError
from tests.support.services.base import (
    LOOPBACK,
    Account,
    Daemon,
    account,
    environment,
    free_port,
    home,
    require,
    write,
)

USER = "postfleet"
PROGRAMS = Path("/usr/lib/postgresql/15/bin")

_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "max_connections": "200",
    "max_wal_size": "1GB",
    "jit": "off",
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "log_min_messages": "warning",
    "timezone": "UTC",
}


class PostgresServer:
    """One server."""

    name = "postgres"

    def __init__(self) -> None:
        program = require(str(PROGRAMS / "postgres"), "postgresql-15")
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
        self.version = said.stdout.split()[2]
        self.port = free_port()
        self.password = secrets.token_hex(12)
        self._numbers = itertools.count(1)
        owner = account("postgres", "nobody")
        directory = home(self.name, owner)
        self._make_cluster(directory, owner)
        settings = {**_SETTINGS, "port": str(self.port)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._daemon = Daemon(
            self.name,
            [program, "-D", directory / "data", *options],
            environment(),
            directory=directory,
            owner=owner,
            ready=self._is_ready,
        )

    @property
    def url(self) -> str:
        """The server's own database."""
        return self._url("postgres")

    def database(self) -> str:
        """Return the address of a fresh, empty database."""
        name = f"test_{next(self._numbers)}"
        connection = psycopg2.connect(self.url)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY file_copy")
        finally:
            connection.close()
        return self._url(name)

    def start(self) -> None:
        """Start it on the data it has."""
        self._daemon.start()

    def kill(self) -> None:
        """End every process of it with SIGKILL; what was committed is kept by the page cache."""
        self._daemon.kill()

    def signal(self, number: int) -> int:
        """Send a signal to the postmaster alone; return its pid."""
        pid = self._daemon.pid
        assert pid is not None, "it does not run"
        os.kill(pid, number)
        return pid

    def restart(self) -> None:
        """Kill it and start it; it recovers from its log."""
        self.kill()
        self.start()

    def _url(self, database: str) -> str:
        return f"postgresql://{USER}:{self.password}@{LOOPBACK}:{self.port}/{database}"

    def _is_ready(self) -> bool:
        psycopg2.connect(self.url, connect_timeout=2).close()
        return True

    def _make_cluster(self, directory: Path, owner: Account) -> None:
        password = write(directory / "password", f"{self.password}\n", owner)
        command = [PROGRAMS / "initdb", "-D", directory / "data", "-U", USER, "--no-sync"]
        options = ["--encoding=UTF8", "--locale=C.UTF-8", "--auth=scram-sha-256"]
        identity = {} if owner.uid is None else {"user": owner.uid, "group": owner.gid}
        made = subprocess.run(  # type: ignore[call-overload]
            [*command, *options, f"--pwfile={password}"],
            cwd=directory,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            **identity,
        )
        if made.returncode:
            raise StartError(self.name, f"initdb ended with {made.returncode}", made.stderr)
