"""Kill a delivery worker in the middle of its work, and tell whom that may have hit.

Gives    kill_delivery() -> Kill, or None while nobody has a connection open; on_the_wire()
Takes    the pids of the workers, the receivers' port; the lab's facts and endings
Raises   OSError when /proc cannot be read
Follows  design.md section 2 ("killing any process doubles none beyond what was on the wire")

The process stands still (SIGSTOP) for as long as it takes to note its connections, else one it
opens meanwhile would be nobody's; then it is killed. Its connections are told from those of other
processes by the inodes of its sockets. What was on the wire the receiver says: recipients of
transactions begun and unanswered, or answered at the dot less than 100 ms before.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WINDOW_S = 0.1
_TCP = Path("/proc/net/tcp")


@dataclass(frozen=True, slots=True)
class Kill:
    """Who was killed, when on each clock, and its ends of the connections to receivers."""

    name: str
    pid: int
    monotonic: float
    at: float
    peers: frozenset[str]


def kill_delivery(pids: Mapping[str, int], smtp_port: int) -> Kill | None:
    """Kill the delivery worker with the most connections; None, and nobody killed, while none has
    any."""
    workers = {name: pid for name, pid in pids.items() if name.startswith("delivery")}
    open_now = {name: len(connections_of(pid, smtp_port)) for name, pid in workers.items()}
    if not any(open_now.values()):
        return None
    name = max(open_now, key=lambda one: open_now[one])
    pid = workers[name]
    monotonic, at = time.monotonic(), time.time()
    os.kill(pid, signal.SIGSTOP)
    try:
        peers = connections_of(pid, smtp_port)
    finally:
        os.kill(pid, signal.SIGKILL)
    return Kill(name, pid, monotonic, at, peers)


def connections_of(pid: int, remote_port: int) -> frozenset[str]:
    """Return a process's own ends of its IPv4 connections to a port, as `address:port`."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since
            inodes.add(os.readlink(entry))
    found = set()
    for line in _TCP.read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        remote = int(fields[2].rpartition(":")[2], 16)
        if remote == remote_port and f"socket:[{fields[9]}]" in inodes:
            found.add(_address(fields[1]))
    return frozenset(found)


def ended_by(kill: Kill, endings: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return what the lab calls the killed process's connections, by peer: of each, the first that
    ended since. An address may be used again by somebody else a moment later."""
    found: dict[str, Mapping[str, Any]] = {}
    for ending in endings:
        peer = ending["peer"]
        if peer not in kill.peers or ending["at"] < kill.at:
            continue
        if peer not in found or ending["connection"] < found[peer]["connection"]:
            found[peer] = ending
    return {peer: int(ending["connection"]) for peer, ending in found.items()}


def on_the_wire(
    kill: Kill, connections: Iterable[int], facts: Iterable[Mapping[str, Any]]
) -> frozenset[str]:
    """Return the recipients whose sender could not know, as the receivers saw it. Replies that a
    receiver lost by itself are not among them."""
    killed = set(connections)
    since = kill.monotonic - WINDOW_S
    return frozenset(
        str(fact["recipient"])
        for fact in facts
        if fact["connection"] in killed
        and (
            fact["fate"] == "unanswered"
            or (fact["stage"] == "dot" and fact["monotonic"] >= since and fact["reply"] is not None)
        )
    )


def _address(text: str) -> str:
    """Read an address as the kernel prints it: octets in the machine's order, port in hex."""
    address, _, port = text.partition(":")
    octets = struct.pack("=I", int(address, 16))
    return f"{socket.inet_ntoa(octets)}:{int(port, 16)}"
