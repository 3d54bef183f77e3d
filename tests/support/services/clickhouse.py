"""A private ClickHouse server of the machine's own package: 18.16 on Debian 12.

Takes    Debian's clickhouse-server
Gives    ClickhouseServer: url, database() for a test of its own; kill(), restart()
Raises   MissingService, StartError

The oldest server the product's base tables run on. Low cardinality columns are not allowed in its
profile: the product asks for them with each session, as it must on a server of somebody else.
"""

from __future__ import annotations

import itertools
import secrets
from xml.sax.saxutils import escape

from clickhouse_driver import Client

from tests.support.services.base import (
    LOOPBACK,
    Daemon,
    account,
    environment,
    free_port,
    home,
    is_open,
    require,
    write,
)

USER = "postfleet"

# Servers of 2018 know no other root; later ones still read it.
_CONFIG = """<?xml version="1.0"?>
<yandex>
  <logger><level>warning</level><log>{d}/server.log</log><errorlog>{d}/error.log</errorlog></logger>
  <listen_host>127.0.0.1</listen_host>
  <tcp_port>{port}</tcp_port><http_port>{http}</http_port>
  <path>{d}/data/</path><tmp_path>{d}/tmp/</tmp_path>
  <user_files_path>{d}/files/</user_files_path>
  <format_schema_path>{d}/schemas/</format_schema_path>
  <users_config>users.xml</users_config>
  <default_profile>default</default_profile><default_database>default</default_database>
  <timezone>UTC</timezone><mark_cache_size>67108864</mark_cache_size>
  <max_concurrent_queries>50</max_concurrent_queries>
  <dictionaries_config>none_*.xml</dictionaries_config>
</yandex>
"""
_USERS = """<?xml version="1.0"?>
<yandex>
  <profiles><default><max_threads>2</max_threads>
    <max_memory_usage>2000000000</max_memory_usage></default></profiles>
  <users><{user}><password>{password}</password><networks><ip>127.0.0.1</ip></networks>
    <profile>default</profile><quota>default</quota></{user}></users>
  <quotas><default></default></quotas>
</yandex>
"""


class ClickhouseServer:
    """One server."""

    name = "clickhouse"

    def __init__(self) -> None:
        program = require("clickhouse-server", "clickhouse-server")
        self.port = free_port()
        self.password = secrets.token_hex(12)
        self.version = ""
        self._numbers = itertools.count(1)
        owner = account("clickhouse", "nobody")
        directory = home(self.name, owner)
        config = _CONFIG.format(d=escape(str(directory)), port=self.port, http=free_port())
        write(directory / "users.xml", _USERS.format(user=USER, password=self.password), owner)
        self._daemon = Daemon(
            self.name,
            [program, f"--config-file={write(directory / 'config.xml', config, owner)}"],
            environment(HOME=str(directory)),
            directory=directory,
            owner=owner,
            ready=self._is_ready,
        )

    @property
    def url(self) -> str:
        """The server's default database."""
        return self._url("default")

    def database(self) -> str:
        """Return the address of a database that is not there yet."""
        return self._url(f"test_{next(self._numbers)}")

    def start(self) -> None:
        """Start it on the data it has."""
        self._daemon.start()

    def kill(self) -> None:
        """End it as a power cut would."""
        self._daemon.kill()

    def restart(self) -> None:
        """Kill it and start it on the same data."""
        self.kill()
        self.start()

    def _url(self, database: str) -> str:
        return f"clickhouse://{USER}:{self.password}@{LOOPBACK}:{self.port}/{database}"

    def _is_ready(self) -> bool:
        if not is_open(self.port):  # the driver writes every refusal to the log
            return False
        client = Client(LOOPBACK, self.port, user=USER, password=self.password, connect_timeout=2)
        try:
            ((version,),) = client.execute("SELECT version()")
        finally:
            client.disconnect()
        self.version = str(version)
        return True
