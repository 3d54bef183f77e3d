"""A private Valkey: limits and caches in database 0, the Celery broker in database 1.

Takes    the run directory and a port
Gives    the child that runs it, a readiness probe, its URLs
Raises   MissingBinary
Follows  RESP2, for the probe
"""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from embedded.binaries import valkey_server
from embedded.child import Child
from embedded.rundir import RunDir, write_private

NAME = "valkey"
CACHE_DATABASE = 0
BROKER_DATABASE = 1
DATABASES = 64


@dataclass(frozen=True, slots=True)
class Valkey:
    run_dir: RunDir
    durable: bool = True

    @property
    def data(self) -> Path:
        return self.run_dir.data(NAME)

    def url(self, port: int, database: int) -> str:
        return f"redis://:{self.run_dir.password(NAME)}@127.0.0.1:{port}/{database}"

    def child(self, port: int, env: Mapping[str, str], *, ready_timeout_s: float) -> Child:
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        password = self.run_dir.password(NAME)
        config = self.data / "valkey.conf"
        write_private(config, self._config(port, password))
        # The working directory is the data directory, so no path needs quoting in the file.
        return Child(
            NAME,
            (str(valkey_server()), config.name),
            env,
            cwd=self.data,
            ready=lambda: answers(port, password),
            ready_timeout_s=ready_timeout_s,
            stop_timeout_s=20.0,
            lock=self.run_dir.lock(NAME),
        )

    def _config(self, port: int, password: str) -> str:
        lines = [
            "bind 127.0.0.1",
            f"port {port}",
            "protected-mode yes",
            f"requirepass {password}",
            f"databases {DATABASES}",
            "daemonize no",
            'save ""',
            f"appendonly {'yes' if self.durable else 'no'}",
            "appendfsync everysec",
            "aof-load-truncated yes",
            "auto-aof-rewrite-min-size 32mb",
            "maxmemory-policy noeviction",
            "tcp-keepalive 60",
            "loglevel notice",
        ]
        return "\n".join(lines) + "\n"


def answers(port: int, password: str, *, timeout_s: float = 1.0) -> bool:
    """Return whether the server takes the password and has loaded its data."""
    request = f"AUTH {password}\r\nPING\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        connection.settimeout(timeout_s)
        connection.sendall(request)
        reply = b""
        while reply.count(b"\r\n") < 2:
            data = connection.recv(256)
            if not data:
                return False
            reply += data
    return reply.startswith(b"+OK\r\n+PONG\r\n")
