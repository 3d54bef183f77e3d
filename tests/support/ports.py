"""Ports for the servers of tests, so that suites, and whole runs, are at peace side by side.

Gives    free_port(): a port nobody listens on, and that nobody else is given while we live
Raises   OSError when none is free

Between choosing a port and listening on it lie seconds in which another suite could choose the
same. A port is marked as taken by the name of a socket in Linux's abstract namespace, as the fleet
marks its own (control/management/fleet/ports.py): it has one owner and goes with the process.

The range lies below the ephemeral ports, so that no outgoing connection sits on one, and apart from
those which embedded/procs.py and the lab draw at random without a mark.
"""

from __future__ import annotations

import atexit
import secrets
import socket

from embedded.procs import is_port_free

LOWEST_PORT, HIGHEST_PORT = 12_000, 17_999


def free_port() -> int:
    """Take a port for the rest of this process."""
    for _ in range(200):
        port = LOWEST_PORT + secrets.randbelow(HIGHEST_PORT - LOWEST_PORT + 1)
        mark = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            mark.bind(f"\0postfleet-port-{port}")
        except OSError:
            mark.close()
            continue
        atexit.register(mark.close)
        if is_port_free(port):
            return port
    raise OSError(f"no free port between {LOWEST_PORT} and {HIGHEST_PORT}")
