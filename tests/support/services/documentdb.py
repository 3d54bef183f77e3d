"""MongoDB's commands on a real engine: a private PostgreSQL with DocumentDB, and our gateway.

Takes    var/cache/documentdb, which deploy/documentdb.sh makes; root, for chroot(8)
Gives    DocumentDb: url, database() for a test of its own; kill(), restart()
Raises   MissingService: not fetched, or not root; StartError

It runs as nobody, in the directory that has its Debian. fsync is off, so kill() is the end of all
its processes and no power cut; what was acknowledged is there after it.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psycopg2

from embedded.errors import StartError
from tests.support.services.base import (
    LOOPBACK,
    Account,
    Daemon,
    MissingService,
    account,
    environment,
    free_port,
    home,
    is_open,
)

TOP = Path(__file__).resolve().parents[3]
ROOT = TOP / "var" / "cache" / "documentdb" / "root"
PROGRAMS = "/usr/lib/postgresql/18/bin"
USER = "app"
_NOBODY = Account("nobody", 65534, 65534)
_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "shared_preload_libraries": "pg_cron,pg_documentdb_core,pg_documentdb",
    "cron.database_name": "postgres",
    "fsync": "off",
    "full_page_writes": "off",
    "jit": "off",
    "max_connections": "300",
    "log_min_messages": "warning",
    "timezone": "UTC",
}


class DocumentDb:
    """One engine and the gateway before it."""

    name = "documentdb"

    def __init__(self) -> None:
        if not ROOT.is_dir():
            raise MissingService("DocumentDB is not here (make test-mongodb as root fetches it)")
        if os.geteuid() != 0:
            raise MissingService("DocumentDB: only root can run it in a directory of its own")
        self.version = self._said("postgres", "--version").split()[2] + " with DocumentDB"
        self.port, self._engine_port = free_port(), free_port()
        self._numbers = itertools.count(1)
        root = account("root")
        directory = home(self.name, root)
        # Inside: its path there is the same for the engine as for us but for ROOT.
        self._place = f"/srv/{directory.parent.name}"
        self._make_cluster()
        settings = {**_SETTINGS, "port": str(self._engine_port)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._engine = Daemon(
            "documentdb-engine",
            self._argv("postgres", "-D", f"{self._place}/data", *options),
            environment(HOME=self._place),
            directory=directory,
            owner=root,
            ready=self._is_ready,
        )
        self._gateway = Daemon(
            "documentdb-gateway",
            [sys.executable, "-m", "tests.support.mongo.gateway", str(self.port), self._dsn],
            environment(PYTHONPATH=f"{TOP}{os.pathsep}{TOP / 'platform'}"),
            directory=directory,
            owner=root,
            ready=lambda: is_open(self.port),
        )

    @property
    def url(self) -> str:
        """A database of its own for whoever wants one only."""
        return self._url("spool")

    def database(self) -> str:
        """Return the address of an empty database."""
        return self._url(f"test_{next(self._numbers)}")

    def start(self) -> None:
        """Start it on the data it has."""
        self._engine.start()
        self._gateway.start()

    def kill(self) -> None:
        """End every process of it with SIGKILL; what was acknowledged is kept."""
        self._gateway.kill()
        self._engine.kill()

    def restart(self) -> None:
        """Kill it and start it."""
        self.kill()
        self.start()

    def remove(self) -> None:
        """Remove its data, once it is ended."""
        shutil.rmtree(ROOT / self._place.lstrip("/"), ignore_errors=True)

    @property
    def _dsn(self) -> str:
        return f"host={LOOPBACK} port={self._engine_port} user={USER} dbname=postgres"

    def _url(self, database: str) -> str:
        return f"mongodb://{LOOPBACK}:{self.port}/{database}"

    def _argv(self, program: str, *arguments: str) -> list[str | Path]:
        who = f"--userspec={_NOBODY.uid}:{_NOBODY.gid}"
        return ["chroot", who, ROOT, f"{PROGRAMS}/{program}", *arguments]

    def _said(self, program: str, *arguments: str) -> str:
        made = subprocess.run(
            [str(part) for part in self._argv(program, *arguments)],
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode == 125:  # chroot(1) itself, as in a container
            raise MissingService(f"DocumentDB: {made.stderr.strip()}")
        if made.returncode:
            reason = f"{program} ended with {made.returncode}"
            raise StartError(self.name, reason, made.stderr)
        return made.stdout

    def _make_cluster(self) -> None:
        place = ROOT / self._place.lstrip("/")
        place.mkdir(mode=0o700)
        _NOBODY.own(place)
        options = ["--encoding=UTF8", "--locale=C.UTF-8", "--auth=trust", "--no-sync"]
        self._said("initdb", "-D", f"{self._place}/data", "-U", USER, *options)

    def _is_ready(self) -> bool:
        connection = psycopg2.connect(self._dsn, connect_timeout=2)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SET client_min_messages = error")
                cursor.execute("CREATE EXTENSION IF NOT EXISTS documentdb CASCADE")
        finally:
            connection.close()
        return True
