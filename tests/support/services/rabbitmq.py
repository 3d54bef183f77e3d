"""A private RabbitMQ node with its management API.

Takes    Debian's rabbitmq-server
Gives    RabbitMq: url, management_url, user, password; virtual_host() for a test of its own;
         queues(), purge(), delete_queue(), close_connections(); kill(), restart()
Raises   MissingService, StartError; OSError when the management API is away
Follows  the HTTP API of RabbitMQ 3.10

Debian's wrapper insists on root; the scripts below /usr/lib/rabbitmq run as any user. Node name,
cookie, distribution port and port mapper are the node's own, so it meets no other node. The port
mapper outlives its node: the guard ends it.
"""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import secrets
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.support.services.base import (
    LOOPBACK,
    Account,
    Daemon,
    MissingService,
    account,
    environment,
    free_port,
    home,
    require,
    write,
)

USER = "postfleet"
_SCRIPTS = "/usr/lib/rabbitmq/lib"

_CONFIG = """\
listeners.tcp.1 = 127.0.0.1:{port}
management.tcp.ip = 127.0.0.1
management.tcp.port = {management}
default_user = {user}
default_pass = {password}
log.console = true
log.file = false
vm_memory_high_watermark.relative = 0.2
disk_free_limit.absolute = 50MB
collect_statistics_interval = 1000
"""
_ERLANG = (
    "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"
)


class RabbitMq:
    """One node."""

    name = "rabbitmq"

    def __init__(self) -> None:
        require("rabbitmq-server", "rabbitmq-server")
        scripts = sorted(Path(_SCRIPTS).glob("rabbitmq_server-*/sbin"))
        if not scripts:
            raise MissingService(f"rabbitmq-server has no scripts below {_SCRIPTS}")
        self.version = scripts[-1].parent.name.partition("-")[2]
        self.user = USER
        self.password = secrets.token_hex(12)
        self.port = free_port()
        self.management_port = free_port()
        self._numbers = itertools.count(1)
        owner = account("rabbitmq", "nobody")
        directory = home(self.name, owner, "mnesia", "log", "home")
        program = scripts[-1] / "rabbitmq-server"
        env = self._prepare(directory, owner)
        self._daemon = Daemon(
            self.name, [program], env, directory=directory, owner=owner, ready=self._is_ready
        )

    @property
    def url(self) -> str:
        """The broker's address, on the default virtual host."""
        return self._url("/")

    @property
    def management_url(self) -> str:
        """Where the HTTP API answers."""
        return f"http://{LOOPBACK}:{self.management_port}/api"

    @property
    def flower_url(self) -> str:
        """The HTTP API with its password, as Flower's --broker-api wants it."""
        return f"http://{self.user}:{self.password}@{LOOPBACK}:{self.management_port}/api/"

    @property
    def output(self) -> str:
        """The end of the node's log."""
        return self._daemon.output

    def start(self) -> None:
        """Start the node; queues that are durable are there again."""
        self._daemon.start()

    def kill(self) -> None:
        """End the node as a power cut would."""
        self._daemon.kill()

    def restart(self) -> None:
        """Kill the node and start it on the same data."""
        self.kill()
        self.start()

    def virtual_host(self) -> str:
        """Make an empty virtual host; return the broker's address on it."""
        name = f"test-{next(self._numbers)}"
        self.ask("PUT", f"/vhosts/{name}")
        rights = {"configure": ".*", "write": ".*", "read": ".*"}
        self.ask("PUT", f"/permissions/{name}/{self.user}", rights)
        return self._url(name)

    def queues(self, url: str) -> dict[str, dict[str, Any]]:
        """Return the queues of an address's virtual host, by name, as the node describes them."""
        return {one["name"]: one for one in self.ask("GET", f"/queues/{_host_of(url)}")}

    def purge(self, url: str) -> None:
        """Empty every queue of an address's virtual host but those of one connection alone."""
        for name, queue in self.queues(url).items():
            if queue.get("exclusive"):
                continue
            self.ask("DELETE", f"/queues/{_host_of(url)}/{quote(name, safe='')}/contents")

    def delete_queue(self, url: str, name: str) -> None:
        """Delete a queue; its consumers are told that they are cancelled."""
        self.ask("DELETE", f"/queues/{_host_of(url)}/{quote(name, safe='')}")

    def close_connections(self) -> int:
        """Cut every client off; return how many there were."""
        found = self.ask("GET", "/connections")
        for one in found:
            self.ask("DELETE", f"/connections/{quote(one['name'], safe='')}")
        return len(found)

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Call the HTTP API; return its answer, or raise OSError naming what it said."""
        line = http.client.HTTPConnection(LOOPBACK, self.management_port, timeout=10)
        token = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
        try:
            data = None if body is None else json.dumps(body)
            line.request(method, f"/api{path}", data, headers)
            answer = line.getresponse()
            text = answer.read()
        finally:
            line.close()
        if answer.status >= 300:
            raise OSError(f"{method} {path}: {answer.status} {text.decode(errors='replace')}")
        return json.loads(text) if text else None

    def _url(self, virtual_host: str) -> str:
        where = quote(virtual_host, safe="")
        return f"amqp://{self.user}:{self.password}@{LOOPBACK}:{self.port}/{where}"

    def _prepare(self, directory: Path, owner: Account) -> dict[str, str]:
        config = _CONFIG.format(
            port=self.port,
            management=self.management_port,
            user=self.user,
            password=self.password,
        )
        plugins = "[rabbitmq_management].\n"
        cookie = directory / "home" / ".erlang.cookie"
        write(cookie, secrets.token_hex(12), owner, mode=0o400)
        return environment(
            HOME=str(directory / "home"),
            RABBITMQ_NODENAME=f"pf{self.port}@localhost",
            RABBITMQ_CONF_ENV_FILE="/dev/null",
            RABBITMQ_CONFIG_FILE=str(write(directory / "rabbitmq.conf", config, owner)),
            RABBITMQ_ENABLED_PLUGINS_FILE=str(write(directory / "enabled_plugins", plugins, owner)),
            RABBITMQ_MNESIA_BASE=str(directory / "mnesia"),
            RABBITMQ_LOG_BASE=str(directory / "log"),
            RABBITMQ_PID_FILE=str(directory / "pid"),
            RABBITMQ_GENERATED_CONFIG_DIR=str(directory / "generated"),
            RABBITMQ_DIST_PORT=str(free_port()),
            ERL_EPMD_PORT=str(free_port()),
            ERL_EPMD_ADDRESS=LOOPBACK,
            RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=_ERLANG,
        )

    def _is_ready(self) -> bool:
        with socket.create_connection((LOOPBACK, self.port), timeout=2) as line:
            line.settimeout(2)
            line.sendall(b"AMQP\0\0\x09\x01")
            if not line.recv(8):
                return False
        return bool(self.ask("GET", "/overview")["rabbitmq_version"])


def _host_of(url: str) -> str:
    """Return the virtual host of an address, as a path of the HTTP API writes it."""
    return url.rpartition("/")[2]
