"""Whose connections are whose, and whom the death of a process may have hit."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from control.management.fleet.killing import (
    Kill,
    connections_of,
    ended_by,
    kill_delivery,
    on_the_wire,
)

CALL = """
import socket, sys
lines = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(int(sys.argv[2]))]
print(*[line.getsockname()[1] for line in lines], flush=True)
sys.stdin.read()
"""
KILL = Kill("delivery1", 1, 50.0, 1000.0, frozenset({"127.0.100.1:4001", "127.0.100.1:4002"}))


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        yield listening


def caller(receiver: socket.socket, count: int) -> tuple[subprocess.Popen[str], frozenset[str]]:
    """Start a process with open connections; return it, and its ends of them."""
    argv = [sys.executable, "-c", CALL, str(receiver.getsockname()[1]), str(count)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    ports = process.stdout.readline().split()
    return process, frozenset(f"127.0.0.1:{port}" for port in ports)


def test_the_delivery_worker_with_the_most_connections_is_killed(receiver: socket.socket) -> None:
    port = receiver.getsockname()[1]
    few, of_few = caller(receiver, 1)
    many, of_many = caller(receiver, 3)
    try:
        assert connections_of(few.pid, port) == of_few
        assert connections_of(many.pid, port) == of_many
        assert connections_of(os.getpid(), port) == frozenset()
        killed = kill_delivery({"delivery1": few.pid, "delivery2": many.pid, "web": 1}, port)
        assert killed is not None
        assert (killed.name, killed.pid, killed.peers) == ("delivery2", many.pid, of_many)
        assert many.wait(timeout=60) == -signal.SIGKILL
        assert few.poll() is None
    finally:
        for process in (few, many):
            process.kill()
            process.communicate()


def test_nobody_is_killed_while_nothing_is_on_the_wire(receiver: socket.socket) -> None:
    idle, _ = caller(receiver, 0)
    try:
        assert kill_delivery({"delivery1": idle.pid}, receiver.getsockname()[1]) is None
        assert idle.poll() is None
    finally:
        idle.kill()
        idle.communicate()


def ending(connection: int, peer: str, at: float) -> dict[str, Any]:
    return {"connection": connection, "peer": peer, "at": at}


def test_a_connection_is_the_killed_one_s_if_it_is_the_first_of_its_peer_to_end_since() -> None:
    endings = [
        ending(1, "127.0.100.1:4001", 999.0),  # an earlier one with this port
        ending(7, "127.0.100.1:4001", 1000.1),
        ending(9, "127.0.100.1:4001", 1000.4),  # somebody else has the port now
        ending(8, "127.0.100.2:4002", 1000.1),
    ]
    assert ended_by(KILL, endings) == {"127.0.100.1:4001": 7}


def test_on_the_wire_is_what_was_unanswered_or_answered_a_tenth_of_a_second_before() -> None:
    def fact(name: str, connection: int, at: float, **other: Any) -> dict[str, Any]:
        base = {"recipient": name, "connection": connection, "monotonic": at, "stage": "dot"}
        return base | {"fate": "accepted", "reply": "250 2.0.0 ok"} | other

    facts = [
        fact("long ago", 7, 49.8),
        fact("just before", 7, 49.95),
        fact("while it died", 7, 50.01),
        fact("unanswered", 7, 50.02, fate="unanswered", reply=None, stage="data"),
        fact("refused at RCPT", 7, 49.99, fate="refused", stage="rcpt"),
        fact("lost by the receiver", 7, 49.99, reply=None),
        fact("of another process", 8, 49.99),
    ]
    expected = {"just before", "while it died", "unanswered"}
    assert on_the_wire(KILL, [7], facts) == expected
