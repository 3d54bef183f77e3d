"""The lines of the kill suite: what passes, what is cut for one process alone, and what is left."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.soak.cutting import Line

OTHERS = 1  # a process that has no connection of ours


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that says back what it hears."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        with client, contextlib.suppress(ConnectionError):
            while data := client.recv(4096):
                client.sendall(data)

    def listen() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(10)


@pytest.fixture
def line(echo: int) -> Iterator[Line]:
    """A line to it."""
    line = Line(f"amqp://us:word@127.0.0.1:{echo}/host")
    yield line
    line.close()


def reached(line: Line) -> socket.socket:
    return socket.create_connection(("127.0.0.1", line.port), timeout=30)


def heard(client: socket.socket) -> bytes:
    """Say something; return what comes back, b"" if the line ends, in whatever way."""
    try:
        client.sendall(b"one")
        return client.recv(10)
    except ConnectionError:
        return b""


def test_the_url_keeps_all_but_the_port(line: Line) -> None:
    assert line.url == f"amqp://us:word@127.0.0.1:{line.port}/host"


def test_a_silent_line_goes_on_where_it_stopped(line: Line) -> None:
    with reached(line) as client:
        client.sendall(b"one")
        assert client.recv(10) == b"one"
        assert line.cut([os.getpid()], is_silent=True) == 1
        client.sendall(b"two")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(10)
        line.mend()
        client.settimeout(30)
        assert client.recv(10) == b"two"


def test_a_broken_line_is_reset_and_no_new_one_comes_through_until_it_is_mended(
    line: Line,
) -> None:
    with reached(line) as client:
        client.sendall(b"one")
        assert client.recv(10) == b"one"
        assert line.cut([os.getpid()], is_silent=False) == 1
        assert heard(client) == b""
    with reached(line) as client:
        assert heard(client) == b""
    line.mend()
    with reached(line) as client:
        client.sendall(b"one")
        assert client.recv(10) == b"one"


def test_other_processes_keep_their_lines(line: Line) -> None:
    with reached(line) as client:
        client.sendall(b"one")
        assert client.recv(10) == b"one"
        assert line.cut([OTHERS], is_silent=False) == 0
        client.sendall(b"two")
        assert client.recv(10) == b"two"


def test_a_line_that_is_closed_leaves_nothing_open(echo: int) -> None:
    line = Line(f"redis://127.0.0.1:{echo}/0")
    with reached(line) as client:
        client.sendall(b"one")
        assert client.recv(10) == b"one"
        line.close()
        assert heard(client) == b""
    with pytest.raises(OSError, match="refused"):
        reached(line).close()
