"""Ports for what this machine's fleet listens on, so that two fleets run side by side.

Gives    Ports: take(), close()
Takes    where to begin, on which loopback addresses
Raises   FleetError when no port is free

Between choosing a port and listening on it lie the migrations, seconds in which a second fleet
would choose the same one, and then each would find "its" panel answering at the other's. So a port
is marked as taken for as long as its fleet lives: by the name of a socket in Linux's abstract
namespace, which has one owner and goes with the process.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack

from control.management.fleet.house import FleetError

LOOPBACK = "127.0.0.1"
SEARCHED = 200


class Ports:
    """The ports of one fleet."""

    def __init__(self) -> None:
        self._marks = ExitStack()

    def take(self, first: int, addresses: Sequence[str] = (LOOPBACK,)) -> int:
        """Return the first port from `first` on that is free on all of these addresses, ours."""
        for port in range(first, first + SEARCHED):
            mark = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                mark.bind(f"\0postfleet-port-{port}")
                _probe(port, addresses)
            except OSError:
                mark.close()
                continue
            self._marks.enter_context(mark)
            return port
        raise FleetError(f"no free port between {first} and {first + SEARCHED - 1}")

    def close(self) -> None:
        """Let others have them."""
        self._marks.close()


def _probe(port: int, addresses: Sequence[str]) -> None:
    for address in addresses:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_INET, kind) as probe:
                if kind is socket.SOCK_STREAM:
                    # Connections just closed do not count: the next run has the same address.
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address, port))
                if kind is socket.SOCK_STREAM:
                    probe.listen()
