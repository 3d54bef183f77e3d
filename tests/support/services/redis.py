"""A private Redis server, and a private Valkey.

Takes    Debian's redis-server; the Valkey of the embedded stack
Gives    RedisServer and ValkeyServer: url, database() for a test of its own; flush(), kill(),
         restart()
Raises   MissingService, StartError

Nothing is written to disk: a restart is an emptied Redis, the case the product has to survive.
"""

from __future__ import annotations

import itertools
import re
import secrets
import socket
import subprocess

from embedded.binaries import valkey_server
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

DATABASES = 64

_CONFIG = """\
bind 127.0.0.1
port {port}
requirepass {password}
databases {databases}
daemonize no
save ""
appendonly no
maxmemory-policy noeviction
"""


class RedisServer:
    """One server."""

    name = "redis"

    def __init__(self) -> None:
        program, owner = self._program()
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
        found = re.search(r"v=(\S+)", said.stdout)
        self.version = found[1] if found else "?"
        self.port = free_port()
        self.password = secrets.token_hex(12)
        self._numbers = itertools.cycle(range(2, DATABASES))
        directory = home(self.name, owner)
        text = _CONFIG.format(port=self.port, password=self.password, databases=DATABASES)
        config = write(directory / "redis.conf", text, owner)
        self._daemon = Daemon(
            self.name,
            [program, config],
            environment(),
            directory=directory,
            owner=owner,
            ready=lambda: self._ask(f"AUTH {self.password}", "PING") == b"+OK\r\n+PONG\r\n",
        )

    @staticmethod
    def _program() -> tuple[str, Account]:
        return require("redis-server", "redis-server"), account("redis", "nobody")

    @property
    def url(self) -> str:
        """The server's first database."""
        return self._url(0)

    def database(self) -> str:
        """Return the address of an empty database."""
        number = next(self._numbers)
        self._ask(f"AUTH {self.password}", f"SELECT {number}", "FLUSHDB")
        return self._url(number)

    def start(self) -> None:
        """Start it, empty."""
        self._daemon.start()

    def kill(self) -> None:
        """End it as a power cut would."""
        self._daemon.kill()

    def flush(self) -> None:
        """Empty every database."""
        self._ask(f"AUTH {self.password}", "FLUSHALL")

    def restart(self) -> None:
        """Kill it and start it, empty."""
        self.kill()
        self.start()

    def _url(self, number: int) -> str:
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/{number}"

    def _ask(self, *commands: str) -> bytes:
        with socket.create_connection((LOOPBACK, self.port), timeout=5) as line:
            line.settimeout(5)
            line.sendall("".join(f"{command}\r\n" for command in commands).encode())
            said = b""
            while said.count(b"\r\n") < len(commands) and (data := line.recv(512)):
                said += data
        return said


class ValkeyServer(RedisServer):
    """The same of the other name; it runs as we do, for its program lies in our directory."""

    name = "valkey"

    @staticmethod
    def _program() -> tuple[str, Account]:
        return str(valkey_server()), Account("", None, None)
