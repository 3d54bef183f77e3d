"""A throwaway ClickHouse server of the machine's own package, where there is one.

Gives    server_url: the address of a fresh, empty database; None without `clickhouse-server`
Raises   RuntimeError with the log of a server that does not start

It listens on loopback, on ports below the ephemeral range, and ends with the process.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import random
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path
from xml.sax.saxutils import escape

START_S = 20.0
_numbers = itertools.count(1)

# Servers of 2018 know no other root; later ones still read it.
_CONFIG = """<?xml version="1.0"?>
<yandex>
  <logger><level>warning</level><log>{d}/server.log</log><errorlog>{d}/error.log</errorlog></logger>
  <listen_host>127.0.0.1</listen_host>
  <tcp_port>{native}</tcp_port><http_port>{http}</http_port>
  <path>{d}/data/</path><tmp_path>{d}/tmp/</tmp_path>
  <user_files_path>{d}/files/</user_files_path>
  <format_schema_path>{d}/schemas/</format_schema_path>
  <users_config>users.xml</users_config>
  <default_profile>default</default_profile><default_database>default</default_database>
  <timezone>UTC</timezone><mark_cache_size>67108864</mark_cache_size>
  <dictionaries_config>none_*.xml</dictionaries_config>
</yandex>
"""
_USERS = """<?xml version="1.0"?>
<yandex>
  <profiles><default><max_threads>2</max_threads></default></profiles>
  <users><default><password></password><networks><ip>127.0.0.1</ip></networks>
    <profile>default</profile><quota>default</quota></default></users>
  <quotas><default></default></quotas>
</yandex>
"""


def server_url() -> str | None:
    """Return the address of a database that does not exist yet, or None without a server."""
    port = _port()
    return None if port is None else f"clickhouse://127.0.0.1:{port}/test_{next(_numbers)}"


@functools.cache
def _port() -> int | None:
    program = shutil.which("clickhouse-server")
    if program is None:
        return None
    directory = Path(tempfile.mkdtemp(prefix="postfleet-clickhouse-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    native, http = _free_port(), _free_port()
    text = _CONFIG.format(d=escape(str(directory)), native=native, http=http)
    (directory / "config.xml").write_text(text)
    (directory / "users.xml").write_text(_USERS)
    environ = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG")}
    with (directory / "out").open("wb") as out:
        server = subprocess.Popen(
            [program, f"--config-file={directory}/config.xml"],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environ,
        )
    atexit.register(_end, server)
    _await(native, server, directory)
    return native


def _await(port: int, server: subprocess.Popen[bytes], directory: Path) -> None:
    pause = threading.Event()
    for _ in range(int(START_S / 0.1)):
        if server.poll() is not None:
            break
        with socket.socket() as probe:
            probe.settimeout(2)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        pause.wait(0.1)
    logs = [path.read_text(errors="replace")[-2000:] for path in directory.glob("*.log")]
    raise RuntimeError("clickhouse-server does not start:\n" + "\n".join(logs))


def _end(server: subprocess.Popen[bytes]) -> None:
    server.kill()
    server.wait()


def _free_port() -> int:
    for port in random.sample(range(20_000, 32_000), 50):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port below 32000")
